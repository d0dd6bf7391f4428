# Everything from outside, found once. Folders link the targets named here.
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(nlohmann_json 3.9 REQUIRED)
if(KVLINK_TESTS)
  find_package(GTest REQUIRED)
endif()

find_package(OpenMP COMPONENTS CXX)
# Debian's dnnl-config.cmake demands OpenCL's headers, which nothing of ours needs; the header and the library are enough.
find_path(KVLINK_DNNL_INCLUDE dnnl.hpp)
find_library(KVLINK_DNNL_LIBRARY dnnl)
if(KVLINK_DNNL_INCLUDE AND KVLINK_DNNL_LIBRARY AND NOT TARGET DNNL::dnnl)
  add_library(DNNL::dnnl UNKNOWN IMPORTED)
  set_target_properties(DNNL::dnnl PROPERTIES IMPORTED_LOCATION ${KVLINK_DNNL_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${KVLINK_DNNL_INCLUDE})
endif()
find_package(hwy CONFIG)

if(NOT KVLINK_BARE)
  find_package(Protobuf MODULE REQUIRED)
  find_package(RocksDB CONFIG REQUIRED)
  find_package(OpenSSL REQUIRED COMPONENTS Crypto SSL)
  find_package(ZLIB REQUIRED)
  find_package(PkgConfig REQUIRED)
  # Not under the name "zstd": its cache variables would confuse the Findzstd that RocksDB brings when CMake runs again.
  pkg_check_modules(kvlink_zstd REQUIRED IMPORTED_TARGET libzstd)
  pkg_check_modules(uring IMPORTED_TARGET liburing)
  find_package(ucx CONFIG REQUIRED)
  find_package(gRPC CONFIG REQUIRED)
  find_package(prometheus-cpp CONFIG REQUIRED)
  find_package(Boost 1.74 CONFIG REQUIRED)  # of headers alone
  # Of the client alone: what servers' extensions are built with need not be there.
  set(PostgreSQL_ADDITIONAL_VERSIONS 15 16 17)
  find_package(PostgreSQL REQUIRED)
endif()

# xxHash is used header-only: compiled with native vectors (base/checksum.inc) it takes 48-53 GB/s of blocks in cache, where the
# packaged library's XXH3_64bits_dispatch takes 41-47 and its plain XXH3_64bits 19, and KVLINK_BARE needs no library.
find_path(KVLINK_XXHASH_INCLUDE xxhash.h)

# LibTorch, for worker/train alone: Debian's package, or the one inside PyTorch (KVLINK_TORCH: the folder that holds its include/ and
# lib/). Its own CMake files demand everything that it was built with; headers and libraries are enough. Sanitized trees do without.
set(KVLINK_TORCH "" CACHE PATH "Folder of LibTorch, if it is not the system's")
if(NOT KVLINK_BARE AND NOT KVLINK_TRAIN STREQUAL "OFF" AND NOT KVLINK_SANITIZE)
  find_path(KVLINK_TORCH_INCLUDE torch/csrc/autograd/custom_function.h HINTS ${KVLINK_TORCH}/include)
  foreach(name torch_cpu c10 torch torch_cuda c10_cuda)
    find_library(KVLINK_${name}_LIBRARY ${name} HINTS ${KVLINK_TORCH}/lib)
    if(KVLINK_${name}_LIBRARY)
      list(APPEND KVLINK_TORCH_LIBRARIES ${KVLINK_${name}_LIBRARY})
    endif()
  endforeach()
  if(KVLINK_TORCH_INCLUDE AND KVLINK_torch_cpu_LIBRARY AND KVLINK_c10_LIBRARY)
    add_library(kvlink_torch INTERFACE)
    target_include_directories(kvlink_torch SYSTEM INTERFACE ${KVLINK_TORCH_INCLUDE})
    # A device's library registers itself when it is loaded: nothing refers to it.
    target_link_libraries(kvlink_torch INTERFACE -Wl,--no-as-needed ${KVLINK_TORCH_LIBRARIES} -Wl,--as-needed)
  elseif(KVLINK_TRAIN STREQUAL "ON")
    message(FATAL_ERROR "KVLINK_TRAIN is ON, but there is no LibTorch; install libtorch-dev or set KVLINK_TORCH")
  endif()
endif()
