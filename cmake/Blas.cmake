# CBLAS and LAPACKE from the wheel scipy-openblas32. Its symbols carry a prefix, so that it lives
# beside any other BLAS in the process.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import scipy_openblas32 as b; print(b.get_include_dir()); print(b.get_lib_dir())"
  OUTPUT_VARIABLE loragraft_blas_dirs
  OUTPUT_STRIP_TRAILING_WHITESPACE
  RESULT_VARIABLE loragraft_blas_status)
if(NOT loragraft_blas_status EQUAL 0)
  message(FATAL_ERROR "scipy-openblas32 is missing: pip install scipy-openblas32")
endif()
string(REPLACE "\n" ";" loragraft_blas_dirs "${loragraft_blas_dirs}")
list(GET loragraft_blas_dirs 0 loragraft_blas_include)
list(GET loragraft_blas_dirs 1 loragraft_blas_lib)

add_library(loragraft_blas SHARED IMPORTED)
set_target_properties(
  loragraft_blas
  PROPERTIES IMPORTED_LOCATION "${loragraft_blas_lib}/libscipy_openblas.so"
             INTERFACE_INCLUDE_DIRECTORIES "${loragraft_blas_include}")
