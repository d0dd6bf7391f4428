// Writes GGUF bytes field by field, well-formed or not, for tests.
#ifndef KVLINK_TESTS_WORKER_FILES_GGUF_BUILDER_H_
#define KVLINK_TESTS_WORKER_FILES_GGUF_BUILDER_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink::model {

class GgufBuilder {
 public:
  enum Type : uint32_t { kU8 = 0, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9, kU64 = 10 };

  template <typename T>
  GgufBuilder& Raw(T value) {
    keys_text().append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }
  GgufBuilder& Text(absl::string_view text) {
    Raw<uint64_t>(text.size());
    keys_text().append(text.data(), text.size());
    return *this;
  }
  GgufBuilder& Key(absl::string_view key, Type type) {
    ++keys_;
    return Text(key).Raw<uint32_t>(type);
  }
  GgufBuilder& U32(absl::string_view key, uint32_t value) { return Key(key, kU32).Raw(value); }
  GgufBuilder& F32(absl::string_view key, float value) { return Key(key, kF32).Raw(value); }
  GgufBuilder& Str(absl::string_view key, absl::string_view value) { return Key(key, kString).Text(value); }
  GgufBuilder& Strings(absl::string_view key, const std::vector<std::string>& values) {
    Key(key, kArray).Raw<uint32_t>(kString).Raw<uint64_t>(values.size());
    for (const std::string& value : values) Text(value);
    return *this;
  }
  GgufBuilder& Ints(absl::string_view key, const std::vector<int32_t>& values) {
    Key(key, kArray).Raw<uint32_t>(kI32).Raw<uint64_t>(values.size());
    for (const int32_t value : values) Raw(value);
    return *this;
  }
  // `sizes` with the innermost first, as in the file.
  GgufBuilder& Tensor(absl::string_view name, const std::vector<uint64_t>& sizes, uint32_t type, uint64_t offset) {
    in_tensors_ = true;
    ++tensors_;
    Text(name).Raw<uint32_t>(sizes.size());
    for (const uint64_t size : sizes) Raw(size);
    Raw(type).Raw(offset);
    in_tensors_ = false;
    return *this;
  }
  // An F32 tensor after the previous ones.
  GgufBuilder& Zeros(absl::string_view name, const std::vector<uint64_t>& sizes) {
    uint64_t bytes = 4;
    for (const uint64_t size : sizes) bytes *= size;
    Tensor(name, sizes, 0, data_bytes_);
    data_bytes_ += (bytes + 31) / 32 * 32;
    return *this;
  }

  std::string Bytes(uint64_t data_bytes) const { return Bytes(data_bytes, tensors_, keys_); }
  std::string Bytes() const { return Bytes(data_bytes_); }
  std::string Bytes(uint64_t data_bytes, uint64_t tensors, uint64_t keys, uint32_t version = 3) const {
    std::string bytes = "GGUF";
    bytes.append(reinterpret_cast<const char*>(&version), 4);
    bytes.append(reinterpret_cast<const char*>(&tensors), 8);
    bytes.append(reinterpret_cast<const char*>(&keys), 8);
    bytes += keys_text_ + tensors_text_;
    bytes.resize((bytes.size() + 31) / 32 * 32);
    bytes.append(data_bytes, '\0');
    return bytes;
  }

 private:
  std::string& keys_text() { return in_tensors_ ? tensors_text_ : keys_text_; }

  std::string keys_text_, tensors_text_;
  bool in_tensors_ = false;
  uint64_t keys_ = 0, tensors_ = 0, data_bytes_ = 0;
};

inline absl::Span<const std::byte> AsBytes(absl::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace kvlink::model

#endif  // KVLINK_TESTS_WORKER_FILES_GGUF_BUILDER_H_
