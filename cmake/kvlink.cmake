# Helpers that keep each folder's CMakeLists.txt to its list of sources.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(KVLINK_CCACHE ccache)
if(KVLINK_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${KVLINK_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${KVLINK_CCACHE})
endif()

add_library(kvlink_options INTERFACE)
target_include_directories(kvlink_options INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
target_compile_options(kvlink_options INTERFACE
  "$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Wno-unused-parameter;-Wno-missing-field-initializers>")
if(KVLINK_SANITIZE)
  add_compile_options(-fsanitize=${KVLINK_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${KVLINK_SANITIZE})
  if(KVLINK_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=all)
  endif()
endif()

# What `make asan`, `make tsan` and `make fuzz` build; kvlink_test and kvlink_fuzzer add to them.
add_custom_target(asan_tests)
add_custom_target(tsan_tests)
add_custom_target(fuzzers)

# kvlink_library(NAME SOURCES a.cc b.cc [DEPS x y])
function(kvlink_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC kvlink_options ${ARG_DEPS})
endfunction()

# kvlink_binary(NAME SOURCES a.cc [DEPS x y])
function(kvlink_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE kvlink_options ${ARG_DEPS})
endfunction()

file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/tests_source_dir.h CONTENT "#define KVLINK_SOURCE_DIR \"@CMAKE_SOURCE_DIR@\"\n" @ONLY)

# kvlink_test(NAME SOURCES a_test.cc [DEPS x y] [LABELS slow model] [TIMEOUT seconds])
# Tests find committed files through the macro KVLINK_SOURCE_DIR of tests_source_dir.h: a header and not a definition,
# so that clones in other folders share the compiled objects of all tests that do not need it.
# Labels beside those given: asan unless slow; tsan in the folders whose code has threads, unless slow or grpc (whose
# processes run the packaged gRPC on both sides: ThreadSanitizer sees neither its locks nor Abseil's and reports it).
function(kvlink_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE kvlink_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  if(NOT "slow" IN_LIST ARG_LABELS)
    list(APPEND ARG_LABELS asan)
    add_dependencies(asan_tests ${name})
    if(CMAKE_CURRENT_SOURCE_DIR MATCHES "/tests/(transport|store|integration|worker/(ingest|infer))(/|$)"
       AND NOT "grpc" IN_LIST ARG_LABELS)
      list(APPEND ARG_LABELS tsan)
      add_dependencies(tsan_tests ${name})
    endif()
  endif()
  # UCX: over the machine's own device, and without its hooks into memory functions, which ThreadSanitizer does not bear.
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
    ENVIRONMENT "UCX_NET_DEVICES=lo;UCX_MEM_EVENTS=n")
endfunction()

# kvlink_fuzzer(NAME SOURCES x_fuzzer.cc [DEPS ...]) : LLVMFuzzerTestOneInput over tests/fuzz/corpus/NAME.
function(kvlink_fuzzer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  if(KVLINK_FUZZ)
    add_executable(${name} ${ARG_SOURCES})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    add_dependencies(fuzzers ${name})
  else()
    add_executable(${name} ${ARG_SOURCES} ${CMAKE_SOURCE_DIR}/tests/fuzz/replay_main.cc)
  endif()
  target_link_libraries(${name} PRIVATE kvlink_options ${ARG_DEPS})
  if(KVLINK_FUZZ)
    add_test(NAME ${name}_replay COMMAND ${name} -runs=0 ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name})
  else()
    add_test(NAME ${name}_replay COMMAND ${name} ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name})
    add_dependencies(asan_tests ${name})
  endif()
  set_tests_properties(${name}_replay PROPERTIES TIMEOUT 300 LABELS asan)
endfunction()
