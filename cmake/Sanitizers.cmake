# A finding ends the process, so that a test run cannot pass over it.
function(loragraft_sanitize target)
  if(LORAGRAFT_SANITIZE)
    set(flags -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_compile_options(${target} PUBLIC ${flags})
    target_link_options(${target} PUBLIC ${flags})
  endif()
endfunction()
