// Parses a GGUF in one pass over its bytes. The file may be hostile: each count is checked against the remaining bytes
// before it sizes an allocation.
#include "worker/files/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/utf8.h"
#include "worker/files/tensor_format.h"

namespace kvlink::model {
namespace {

enum ValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12
};

constexpr uint64_t kMaxKeys = 1 << 16;
constexpr uint64_t kMaxTensors = 1 << 16;
constexpr uint64_t kMaxKeyBytes = 65535;  // the format's own limit
constexpr uint64_t kMaxTensorNameBytes = 256;
constexpr uint64_t kMaxRank = 4;  // ggml's own limit
constexpr uint64_t kMaxAlignment = 1 << 20;

// Bytes of a scalar of this type; 0 for strings, arrays and unknown types.
uint64_t ScalarBytes(uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kF32:
      return 4;
    case kU64:
    case kI64:
    case kF64:
      return 8;
    default:
      return 0;
  }
}

template <typename T>
T LoadAs(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

std::optional<int64_t> LoadInteger(uint32_t type, const std::byte* p) {
  switch (type) {
    case kU8:
      return LoadAs<uint8_t>(p);
    case kI8:
      return LoadAs<int8_t>(p);
    case kU16:
      return LoadAs<uint16_t>(p);
    case kI16:
      return LoadAs<int16_t>(p);
    case kU32:
      return LoadAs<uint32_t>(p);
    case kI32:
      return LoadAs<int32_t>(p);
    case kI64:
      return LoadAs<int64_t>(p);
    case kU64: {
      const uint64_t value = LoadAs<uint64_t>(p);
      if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> LoadNumber(uint32_t type, const std::byte* p) {
  if (type == kF32) return LoadAs<float>(p);
  if (type == kF64) return LoadAs<double>(p);
  const std::optional<int64_t> integer = LoadInteger(type, p);
  return integer.has_value() ? std::optional<double>(static_cast<double>(*integer)) : std::nullopt;
}

absl::string_view AsText(absl::Span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

absl::Status WrongType(absl::string_view key, absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat("key ", key, " is no ", expected));
}

// Reads forward and never leaves the given bytes.
class Cursor {
 public:
  explicit Cursor(absl::Span<const std::byte> bytes) : bytes_(bytes) {}
  uint64_t offset() const { return offset_; }
  uint64_t left() const { return bytes_.size() - offset_; }

  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("byte ", offset_, ": ", what));
  }
  absl::StatusOr<absl::Span<const std::byte>> Take(uint64_t count, absl::string_view what) {
    if (count > left())
      return Error(absl::StrCat(what, " of ", count, " bytes, but only ", left(), " are left (truncated?)"));
    const auto taken = bytes_.subspan(offset_, count);
    offset_ += count;
    return taken;
  }
  template <typename T>
  absl::StatusOr<T> Take(absl::string_view what) {
    KVLINK_ASSIGN_OR_RETURN(const auto bytes, Take(sizeof(T), what));
    return LoadAs<T>(bytes.data());
  }
  absl::StatusOr<absl::string_view> TakeString(uint64_t limit, absl::string_view what) {
    KVLINK_ASSIGN_OR_RETURN(const uint64_t length, Take<uint64_t>(what));
    if (length > limit) return Error(absl::StrCat(what, " of ", length, " bytes, more than ", limit));
    KVLINK_ASSIGN_OR_RETURN(const auto bytes, Take(length, what));
    return AsText(bytes);
  }

 private:
  const absl::Span<const std::byte> bytes_;
  uint64_t offset_ = 0;
};

absl::Status CheckName(const Cursor& cursor, absl::string_view name, absl::string_view what) {
  if (name.empty()) return cursor.Error(absl::StrCat(what, " is empty"));
  const bool control = std::any_of(name.begin(), name.end(), [](char c) { return c >= 0 && c < 0x20; });
  if (control || ValidUtf8Prefix(name) != name.size()) {
    return cursor.Error(absl::StrCat(what, " \"", absl::CHexEscape(name), "\" is not plain UTF-8 text"));
  }
  return absl::OkStatus();
}

}  // namespace

class GgufFile::Parser {
 public:
  explicit Parser(absl::Span<const std::byte> bytes) : bytes_(bytes), cursor_(bytes) {}

  absl::StatusOr<GgufFile> Parse() {
    KVLINK_RETURN_IF_ERROR(ParseHeader());
    for (uint64_t i = 0; i < keys_; ++i) KVLINK_RETURN_IF_ERROR(ParseKey());
    KVLINK_ASSIGN_OR_RETURN(const auto alignment, file_.Integer("general.alignment"));
    if (alignment.has_value()) {
      if (*alignment < 1 || *alignment > static_cast<int64_t>(kMaxAlignment) || (*alignment & (*alignment - 1)) != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("general.alignment is ", *alignment, ", expected a power of two up to ", kMaxAlignment));
      }
      alignment_ = static_cast<uint64_t>(*alignment);
    }
    for (uint64_t i = 0; i < tensors_; ++i) KVLINK_RETURN_IF_ERROR(ParseTensor());
    KVLINK_RETURN_IF_ERROR(PlaceTensors());
    return std::move(file_);
  }

 private:
  absl::Status ParseHeader() {
    KVLINK_ASSIGN_OR_RETURN(const auto magic, cursor_.Take(4, "magic"));
    if (AsText(magic) != "GGUF")
      return absl::InvalidArgumentError("is not a GGUF file (it does not start with \"GGUF\")");
    KVLINK_ASSIGN_OR_RETURN(const uint32_t version, cursor_.Take<uint32_t>("version"));
    if (version != 3) {
      if ((version & 0xffff) == 0) return absl::UnimplementedError("is a big-endian GGUF; convert it to little-endian");
      return absl::UnimplementedError(
          absl::StrCat("is GGUF version ", version, "; version 3 is read: convert it again"));
    }
    KVLINK_ASSIGN_OR_RETURN(tensors_, cursor_.Take<uint64_t>("tensor count"));
    KVLINK_ASSIGN_OR_RETURN(keys_, cursor_.Take<uint64_t>("key count"));
    if (tensors_ > kMaxTensors) return cursor_.Error(absl::StrCat(tensors_, " tensors, more than ", kMaxTensors));
    if (keys_ > kMaxKeys) return cursor_.Error(absl::StrCat(keys_, " keys, more than ", kMaxKeys));
    return absl::OkStatus();
  }

  absl::Status ParseKey() {
    KVLINK_ASSIGN_OR_RETURN(const absl::string_view key, cursor_.TakeString(kMaxKeyBytes, "key"));
    KVLINK_RETURN_IF_ERROR(CheckName(cursor_, key, "key"));
    Value value;
    KVLINK_ASSIGN_OR_RETURN(value.type, cursor_.Take<uint32_t>("value type"));
    if (value.type == kString) {
      KVLINK_ASSIGN_OR_RETURN(const absl::string_view text, cursor_.TakeString(UINT64_MAX, key));
      if (ValidUtf8Prefix(text) != text.size())
        return cursor_.Error(absl::StrCat("value of ", key, " is not valid UTF-8"));
      value.bytes = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(text.data()), text.size());
    } else if (value.type == kArray) {
      KVLINK_RETURN_IF_ERROR(ParseArray(key, &value));
    } else if (const uint64_t size = ScalarBytes(value.type); size > 0) {
      KVLINK_ASSIGN_OR_RETURN(value.bytes, cursor_.Take(size, key));
    } else {
      return cursor_.Error(absl::StrCat("key ", key, " has the unknown type ", value.type));
    }
    if (!file_.values_.emplace(std::string(key), value).second) {
      return cursor_.Error(absl::StrCat("key ", key, " stands there twice"));
    }
    return absl::OkStatus();
  }

  absl::Status ParseArray(absl::string_view key, Value* value) {
    KVLINK_ASSIGN_OR_RETURN(value->element_type, cursor_.Take<uint32_t>("array type"));
    KVLINK_ASSIGN_OR_RETURN(value->count, cursor_.Take<uint64_t>("array length"));
    if (value->element_type == kArray) return cursor_.Error(absl::StrCat("key ", key, " is an array of arrays"));
    const uint64_t begin = cursor_.offset();
    if (value->element_type == kString) {
      // Each string takes at least its length field, so a count beyond the bytes ends the loop early.
      for (uint64_t i = 0; i < value->count; ++i) {
        KVLINK_RETURN_IF_ERROR(cursor_.TakeString(UINT64_MAX, key).status());
      }
    } else if (const uint64_t size = ScalarBytes(value->element_type); size > 0) {
      if (value->count > cursor_.left() / size) {
        return cursor_.Error(absl::StrCat("key ", key, " has ", value->count, " values, more than the file holds"));
      }
      KVLINK_RETURN_IF_ERROR(cursor_.Take(value->count * size, key).status());
    } else {
      return cursor_.Error(absl::StrCat("key ", key, " is an array of the unknown type ", value->element_type));
    }
    value->bytes = bytes_.subspan(begin, cursor_.offset() - begin);
    return absl::OkStatus();
  }

  absl::Status ParseTensor() {
    KVLINK_ASSIGN_OR_RETURN(const absl::string_view name, cursor_.TakeString(kMaxTensorNameBytes, "tensor name"));
    KVLINK_RETURN_IF_ERROR(CheckName(cursor_, name, "tensor name"));
    KVLINK_ASSIGN_OR_RETURN(const uint32_t rank, cursor_.Take<uint32_t>("tensor rank"));
    if (rank < 1 || rank > kMaxRank) return cursor_.Error(absl::StrCat("tensor ", name, " has rank ", rank));
    SourceTensor tensor;
    tensor.name = std::string(name);
    tensor.shape.resize(rank);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < rank; ++i) {
      KVLINK_ASSIGN_OR_RETURN(const uint64_t size, cursor_.Take<uint64_t>("tensor size"));
      if (size == 0 || size > (uint64_t{1} << 40) || __builtin_mul_overflow(elements, size, &elements) ||
          elements > (uint64_t{1} << 48)) {
        return cursor_.Error(absl::StrCat("tensor ", name, " has an absurd size ", size, " in dimension ", i));
      }
      tensor.shape[rank - 1 - i] = static_cast<int64_t>(size);
    }
    KVLINK_ASSIGN_OR_RETURN(const uint32_t type, cursor_.Take<uint32_t>("tensor type"));
    KVLINK_ASSIGN_OR_RETURN(const uint64_t offset, cursor_.Take<uint64_t>("tensor offset"));
    const TensorFormat* format = FindGgmlTensorFormat(type);
    if (format == nullptr) {
      return absl::UnimplementedError(absl::StrCat("tensor ", name, " is of type ", type, " (", GgmlTypeName(type),
                                                   "); convert the model to one of ", TensorFormatNames()));
    }
    if (tensor.shape.back() % format->block_elements != 0) {
      return cursor_.Error(absl::StrCat("tensor ", name, " has rows of ", tensor.shape.back(),
                                        " elements, not a multiple of the ", format->block_elements, " in a block of ",
                                        format->name));
    }
    if (offset % alignment_ != 0) {
      return cursor_.Error(absl::StrCat("tensor ", name, " at offset ", offset, " is not aligned to ", alignment_));
    }
    tensor.type = std::string(format->name);
    if (!file_.tensor_index_.emplace(tensor.name, file_.tensors_.size()).second) {
      return cursor_.Error(absl::StrCat("tensor ", name, " stands there twice"));
    }
    file_.tensors_.push_back(std::move(tensor));
    places_.push_back({offset, elements / static_cast<uint64_t>(format->block_elements) *
                                   static_cast<uint64_t>(format->block_bytes)});
    return absl::OkStatus();
  }

  absl::Status PlaceTensors() {
    if (tensors_ == 0) return absl::OkStatus();
    const uint64_t begin = (cursor_.offset() + alignment_ - 1) / alignment_ * alignment_;
    const uint64_t size = begin <= bytes_.size() ? bytes_.size() - begin : 0;
    std::vector<size_t> order(places_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [this](size_t a, size_t b) { return places_[a].offset < places_[b].offset; });
    uint64_t end_of_previous = 0;
    for (const size_t i : order) {
      const Place& place = places_[i];
      SourceTensor& tensor = file_.tensors_[i];
      if (place.offset > size || place.bytes > size - place.offset) {
        return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " ends at byte ",
                                                       begin + place.offset + place.bytes, " of a file of ",
                                                       bytes_.size(), " bytes (truncated?)"));
      }
      if (place.offset < end_of_previous) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor ", tensor.name, " at offset ", place.offset, " overlaps another one"));
      }
      end_of_previous = place.offset + place.bytes;
      tensor.bytes = bytes_.subspan(begin + place.offset, place.bytes);
    }
    return absl::OkStatus();
  }

  struct Place {
    uint64_t offset, bytes;
  };

  const absl::Span<const std::byte> bytes_;
  Cursor cursor_;
  uint64_t tensors_ = 0;
  uint64_t keys_ = 0;
  uint64_t alignment_ = 32;
  std::vector<Place> places_;
  GgufFile file_;
};

absl::StatusOr<GgufFile> GgufFile::Parse(absl::Span<const std::byte> bytes) { return Parser(bytes).Parse(); }

const SourceTensor* GgufFile::FindTensor(absl::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const GgufFile::Value* GgufFile::Find(absl::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

absl::StatusOr<std::optional<int64_t>> GgufFile::Integer(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::optional<int64_t>();
  const std::optional<int64_t> integer = LoadInteger(value->type, value->bytes.data());
  if (!integer.has_value()) return WrongType(key, "integer");
  return integer;
}

absl::StatusOr<std::optional<double>> GgufFile::Number(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::optional<double>();
  const std::optional<double> number = LoadNumber(value->type, value->bytes.data());
  if (!number.has_value() || !std::isfinite(*number)) return WrongType(key, "finite number");
  return number;
}

absl::StatusOr<std::optional<bool>> GgufFile::Bool(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::optional<bool>();
  if (value->type != kBool) return WrongType(key, "bool");
  return std::optional<bool>(value->bytes[0] != std::byte{0});
}

absl::StatusOr<std::optional<absl::string_view>> GgufFile::String(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::optional<absl::string_view>();
  if (value->type != kString) return WrongType(key, "string");
  return std::optional<absl::string_view>(AsText(value->bytes));
}

absl::StatusOr<std::optional<std::vector<absl::string_view>>> GgufFile::Strings(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::optional<std::vector<absl::string_view>>();
  if (value->type != kArray || value->element_type != kString) return WrongType(key, "array of strings");
  std::vector<absl::string_view> strings;
  strings.reserve(value->count);  // Parse has checked the count
  Cursor cursor(value->bytes);
  for (uint64_t i = 0; i < value->count; ++i) {
    KVLINK_ASSIGN_OR_RETURN(const absl::string_view text, cursor.TakeString(UINT64_MAX, key));
    strings.push_back(text);
  }
  return std::optional(std::move(strings));
}

absl::StatusOr<std::optional<std::vector<double>>> GgufFile::Numbers(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::optional<std::vector<double>>();
  if (value->type != kArray || value->element_type == kString) return WrongType(key, "array of numbers");
  std::vector<double> numbers;
  numbers.reserve(value->count);
  const uint64_t size = ScalarBytes(value->element_type);
  for (uint64_t i = 0; i < value->count; ++i) {
    const std::optional<double> number = LoadNumber(value->element_type, value->bytes.data() + i * size);
    if (!number.has_value()) return WrongType(key, "array of numbers");
    numbers.push_back(*number);
  }
  return std::optional(std::move(numbers));
}

}  // namespace kvlink::model
