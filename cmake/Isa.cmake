# One source file per instruction set, each with its own flags; everything else is built for the
# platform's baseline, so that one binary runs everywhere and chooses at run time.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(LORAGRAFT_X86 ON)
else()
  set(LORAGRAFT_X86 OFF)
endif()

function(loragraft_isa_file file)
  set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${ARGN}")
endfunction()
