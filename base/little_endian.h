// Field encodings of our own records and frames: fixed-size little-endian integers, and varints (LEB128: seven bits per
// byte, lowest first, the high bit set on all bytes except the last; always the shortest form).
// Thread-safety: pure functions; a FieldReader is used by one thread.
#ifndef KVLINK_BASE_LITTLE_ENDIAN_H_
#define KVLINK_BASE_LITTLE_ENDIAN_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "absl/strings/string_view.h"

namespace kvlink {

template <typename T>
void AppendField(T value, std::string* out) {
  static_assert(std::is_unsigned_v<T>);
  for (size_t i = 0; i < sizeof(T); ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

inline void AppendVarint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}

// Reads fields from the front. ok() turns false, permanently, at the first field that is missing.
class FieldReader {
 public:
  explicit FieldReader(absl::string_view bytes) : rest_(bytes) {}

  template <typename T>
  T Read() {
    static_assert(std::is_unsigned_v<T>);
    T value = 0;
    if (rest_.size() < sizeof(T)) {
      ok_ = false;
      return value;
    }
    for (size_t i = 0; i < sizeof(T); ++i) value |= static_cast<T>(static_cast<uint8_t>(rest_[i])) << (8 * i);
    rest_.remove_prefix(sizeof(T));
    return value;
  }
  // A varint that is not in its shortest form, or exceeds 64 bits, counts as missing.
  uint64_t ReadVarint() {
    uint64_t value = 0;
    for (int shift = 0; ok_ && shift < 64; shift += 7) {
      const uint8_t byte = Read<uint8_t>();
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte == 0 && shift > 0) || (byte > 1 && shift == 63)) break;
      if ((byte & 0x80) == 0 && ok_) return value;
    }
    ok_ = false;
    return 0;
  }
  void ReadBytes(void* out, size_t n) {
    if (rest_.size() < n) {
      ok_ = false;
      return;
    }
    std::memcpy(out, rest_.data(), n);
    rest_.remove_prefix(n);
  }
  bool ok() const { return ok_; }
  bool at_end() const { return ok_ && rest_.empty(); }

 private:
  absl::string_view rest_;
  bool ok_ = true;
};

}  // namespace kvlink

#endif  // KVLINK_BASE_LITTLE_ENDIAN_H_
