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

# Where there is lld: a build from nothing links some 300 programs, each in half the time.
find_program(KVLINK_LLD ld.lld)
if(KVLINK_LLD)
  add_link_options(-fuse-ld=lld)
endif()

add_library(kvlink_options INTERFACE)
target_include_directories(kvlink_options INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
target_compile_options(kvlink_options INTERFACE
  "$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Wno-unused-parameter;-Wno-missing-field-initializers>"
  # The annotations of base/mutex.h are checked by clang alone (`make annotations`).
  "$<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Wthread-safety;-Werror=thread-safety>")
if(KVLINK_WERROR)
  target_compile_options(kvlink_options INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:-Werror>")
endif()
if(KVLINK_SANITIZE)
  add_compile_options(-fsanitize=${KVLINK_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${KVLINK_SANITIZE})
  if(KVLINK_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=all)
    if(NOT KVLINK_FUZZ)
      # What AddressSanitizer reports as well, and the alignment of each access: a third of the time of compiling. The fuzzers' tree has them all.
      add_compile_options(-fno-sanitize=null,vptr,object-size,alignment)
    endif()
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    # As GCC says it; clang has __has_feature for it.
    if(KVLINK_SANITIZE MATCHES "address")
      add_compile_definitions(__SANITIZE_ADDRESS__=1)
    elseif(KVLINK_SANITIZE MATCHES "thread")
      add_compile_definitions(__SANITIZE_THREAD__=1)
    endif()
  endif()
endif()

# GCC looks for garbage from 128 MB on, which takes an eighth of its time; a file needs 400 to 1300 MB.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:--param=ggc-min-heapsize=1048576>")
endif()

# Precompiled headers, in GCC's trees: a third of the time of building. The debug tree and clang (`make annotations`) have none, so that a
# file that does not include what it needs fails there. kernels/ compiles single files with flags of their own and does without.
set(KVLINK_PCH OFF)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT KVLINK_BARE AND NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
  set(KVLINK_PCH ON)
  add_compile_options(-pthread)  # who links threads has it, and a header is good only where all macros are the same
endif()

# kvlink_unity(FILES): targets of this folder and below are compiled FILES sources at a time (0: all), which takes a third to a half as long as one by
# one. That is everything but kernels and what sees LibTorch: whole targets in sanitized trees and among tests and benches, eight files in the rest of the
# others, which people build again and again. The debug tree compiles file by file, and so each must include what it needs.
macro(kvlink_unity files)
  if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
    # What GCC takes for a header's class that has members of an anonymous namespace is a source's.
    add_compile_options("$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-subobject-linkage>")
    set(CMAKE_UNITY_BUILD ON)
    set(CMAKE_UNITY_BUILD_BATCH_SIZE ${files})
  endif()
endmacro()
if(KVLINK_SANITIZE)
  kvlink_unity(0)
else()
  kvlink_unity(8)
endif()

# What `make release-tests`, `make asan`, `make tsan` and `make fuzz` build; kvlink_binary, kvlink_test and kvlink_fuzzer add to them.
add_custom_target(release_tests)
add_custom_target(asan_tests)
add_custom_target(tsan_tests)
add_custom_target(fuzzers)

# What fuzzers reach tells them which of its branches were taken; a folder that they do not reach says set(KVLINK_UNFUZZED ON).
# kvlink_library(NAME SOURCES a.cc b.cc [DEPS x y] [PRIVATE_DEPS z])
# PRIVATE_DEPS are libraries that no header of this one includes: who links it does not see them.
function(kvlink_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC kvlink_options ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  if(KVLINK_FUZZ AND NOT KVLINK_UNFUZZED)
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(KVLINK_IN_TESTS AND NOT KVLINK_NUMERIC_TESTS AND NOT KVLINK_NO_PCH)
    kvlink_test_options(${name})
  elseif(KVLINK_PCH AND NOT KVLINK_NO_PCH)
    target_precompile_headers(${name} REUSE_FROM kvlink_pch)
  endif()
endfunction()

# kvlink_generated_library(NAME SOURCES a.pb.cc [DEPS x y]): what protoc wrote. Not ours to check: AddressSanitizer leaves it out, as it does the library
# that it calls. ThreadSanitizer must not: one copy of an inline function is linked, and shared_ptr's count must be seen by it wherever it came from.
function(kvlink_generated_library name)
  set(KVLINK_NO_PCH ON)
  kvlink_library(${name} ${ARGN})
  if(KVLINK_SANITIZE MATCHES "address" AND NOT KVLINK_FUZZ)
    target_compile_options(${name} PRIVATE -fno-sanitize=all -g0)
  endif()
endfunction()

# kvlink_binary(NAME SOURCES a.cc [DEPS x y])
function(kvlink_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE kvlink_options ${ARG_DEPS})
  add_dependencies(release_tests ${name})
endfunction()

# Of the tests' own files. Two thirds of a build from nothing are tests, and what they test is compiled elsewhere: they have no optimization,
# in sanitized trees no line numbers, and in `make asan` no checks of UndefinedBehaviorSanitizer. Folders whose tests compute what they compare with say
# set(KVLINK_NUMERIC_TESTS ON): there running would take longer than is saved.
set(KVLINK_TEST_OPTIONS -O0)
set(KVLINK_NUMERIC_TEST_OPTIONS -O1)
if(KVLINK_SANITIZE)
  list(APPEND KVLINK_TEST_OPTIONS -g0)
endif()
if(KVLINK_SANITIZE MATCHES "undefined")
  list(APPEND KVLINK_TEST_OPTIONS -fno-sanitize=undefined)
  list(APPEND KVLINK_NUMERIC_TEST_OPTIONS -fno-sanitize=undefined)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Debug")
  set(KVLINK_TEST_OPTIONS)
  set(KVLINK_NUMERIC_TEST_OPTIONS)
endif()
# Whoever uses a precompiled header must have the options with which it was compiled.
function(kvlink_test_options name)
  target_compile_options(${name} PRIVATE ${KVLINK_TEST_OPTIONS} -fPIE)
  target_compile_definitions(${name} PRIVATE GTEST_HAS_PTHREAD=1)  # as GTest says to whoever links it
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)  # -fPIE says it, for libraries and executables alike
  if(KVLINK_PCH AND NOT name STREQUAL "kvlink_test_pch")
    target_precompile_headers(${name} REUSE_FROM kvlink_test_pch)
  endif()
endfunction()
# kvlink_precompiled(NAME HEADERS): a target that holds them.
function(kvlink_precompiled name)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/nothing.cc CONTENT "// Holds precompiled headers.\n" @ONLY)
  add_library(${name} OBJECT ${CMAKE_BINARY_DIR}/generated/nothing.cc)
  target_link_libraries(${name} PRIVATE kvlink_options)
  target_precompile_headers(${name} PRIVATE ${ARGN})
endfunction()
if(KVLINK_PCH)
  set(common <algorithm> <atomic> <functional> <map> <memory> <optional> <string> <utility> <vector> <absl/container/flat_hash_map.h>
    <absl/status/status.h> <absl/status/statusor.h> <absl/strings/str_cat.h> <absl/strings/string_view.h> <absl/time/time.h> <absl/types/span.h>)
  kvlink_precompiled(kvlink_pch ${common})
  kvlink_precompiled(kvlink_test_pch ${common} <random> <thread> <gmock/gmock.h> <gtest/gtest.h>)
  target_link_libraries(kvlink_test_pch PRIVATE GTest::gmock GTest::gtest_main)
  kvlink_test_options(kvlink_test_pch)
endif()

file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/tests_source_dir.h CONTENT "#define KVLINK_SOURCE_DIR \"@CMAKE_SOURCE_DIR@\"\n" @ONLY)

# kvlink_test(NAME [APART] SOURCES a_test.cc [DEPS x y] [LABELS slow model] [TIMEOUT seconds])
# APART: ctest runs the suites of each source in a process of its own, as NAME.a. Many small programs compile the same headers and link the same libraries;
# one of many sources does it once.
# A folder whose code has threads says set(KVLINK_TESTS_THREADS ON) in its CMakeLists.txt.
# Tests find committed files through the macro KVLINK_SOURCE_DIR of tests_source_dir.h: a header and not a definition,
# so that clones in other folders share the compiled objects of all tests that do not need it.
# Labels beside those given: asan unless slow or model (whose weights would compute for minutes, the way that tiny models do, too); tsan in the folders
# whose code has threads, unless slow, grpc (whose processes run the packaged gRPC on both sides: ThreadSanitizer sees neither its locks nor Abseil's
# and reports it) or numeric (which would compute for minutes, with threads that other tests have).
function(kvlink_test name)
  cmake_parse_arguments(ARG "APART" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE kvlink_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  if(KVLINK_NUMERIC_TESTS)
    target_compile_options(${name} PRIVATE ${KVLINK_NUMERIC_TEST_OPTIONS})
  else()
    kvlink_test_options(${name})
  endif()
  if(ARG_APART)
    kvlink_tests_apart(tests ${name} ${ARG_SOURCES})
  else()
    set(tests ${name})
    add_test(NAME ${name} COMMAND ${name})
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  if(NOT "slow" IN_LIST ARG_LABELS AND NOT "model" IN_LIST ARG_LABELS)
    list(APPEND ARG_LABELS asan)
    add_dependencies(asan_tests ${name})
    if(KVLINK_TESTS_THREADS AND NOT "grpc" IN_LIST ARG_LABELS AND NOT "numeric" IN_LIST ARG_LABELS)
      list(APPEND ARG_LABELS tsan)
      add_dependencies(tsan_tests ${name})
    endif()
  endif()
  if(NOT "tsan" IN_LIST ARG_LABELS)  # what both sanitizers run, `make test` runs there alone
    add_dependencies(release_tests ${name})
  endif()
  # UCX: over the machine's own device, and without its hooks into memory functions, which ThreadSanitizer does not bear.
  set_tests_properties(${tests} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
    ENVIRONMENT "UCX_NET_DEVICES=lo;UCX_MEM_EVENTS=n")
endfunction()

# Adds a test to ctest for each source that has any, and sets `out` to their names. Reads the sources when CMake runs, and has it run again when they change.
function(kvlink_tests_apart out name)
  set(tests)
  foreach(source ${ARGN})
    get_filename_component(source ${source} ABSOLUTE)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
    file(STRINGS ${source} lines REGEX "^TEST(_F|_P)?\\(")
    set(suites)
    foreach(line ${lines})
      string(REGEX REPLACE "^TEST[_FP]*\\(([A-Za-z0-9_]+).*" "\\1" suite "${line}")
      list(APPEND suites "${suite}.*" "*/${suite}.*")
    endforeach()
    if(suites)
      list(REMOVE_DUPLICATES suites)
      string(REPLACE ";" ":" filter "${suites}")
      get_filename_component(stem ${source} NAME_WE)
      string(REGEX REPLACE "_test$" "" stem ${stem})
      add_test(NAME ${name}.${stem} COMMAND ${name} --gtest_filter=${filter})
      list(APPEND tests ${name}.${stem})
    endif()
  endforeach()
  set(${out} ${tests} PARENT_SCOPE)
endfunction()

# kvlink_fuzzer(NAME SOURCES x_fuzzer.cc [DEPS ...]) : LLVMFuzzerTestOneInput over tests/fuzz/corpus/NAME. Only in the tree of `make fuzz`.
function(kvlink_fuzzer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE kvlink_options ${ARG_DEPS})
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer-no-link)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  add_test(NAME ${name}_replay COMMAND ${name} -runs=0 ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name})
  set_tests_properties(${name}_replay PROPERTIES TIMEOUT 300)
  add_dependencies(fuzzers ${name})
endfunction()
