// Compresses bytes with gzip, for tests of readers.
#ifndef KVLINK_TESTS_SUPPORT_GZIP_H_
#define KVLINK_TESTS_SUPPORT_GZIP_H_

#include <zlib.h>

#include <string>

#include "gtest/gtest.h"

namespace kvlink::testing {

inline std::string Gzip(const std::string& bytes) {
  std::string out(compressBound(bytes.size()) + 64, '\0');
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_GZIP_H_
