// Parses the JSON header event by event, so that a hostile header is refused at its first wrong event, and checks that
// the tensors cover the data exactly.
#include "worker/files/safetensors.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace kvlink::model {
namespace {

constexpr uint64_t kMaxHeader = 16 << 20;
constexpr size_t kMaxEntries = 1 << 16;
constexpr size_t kMaxListed = 8;

struct Entry {
  std::string name, dtype;
  std::vector<uint64_t> shape, offsets;
  bool has_shape = false;
};

// 0 for an unknown dtype.
uint64_t DtypeBits(absl::string_view dtype) {
  static constexpr std::pair<absl::string_view, uint64_t> kBits[] = {
      {"F64", 64}, {"I64", 64},    {"U64", 64},    {"F32", 32},    {"I32", 32}, {"U32", 32},
      {"F16", 16}, {"BF16", 16},   {"I16", 16},    {"U16", 16},    {"I8", 8},   {"U8", 8},
      {"BOOL", 8}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"C64", 64}};
  for (const auto& [name, bits] : kBits) {
    if (name == dtype) return bits;
  }
  return 0;
}

// Processes header events one by one, without building the JSON.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Entry>& entries() { return entries_; }
  const std::string& error() const { return error_; }

  bool null() override { return Value("null"); }
  bool boolean(bool) override { return Value("a boolean"); }
  bool number_integer(number_integer_t) override { return Value("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return Value("a fraction"); }
  bool binary(binary_t&) override { return Value("binary"); }
  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ == 3 && list_ != nullptr) {
      if (list_->size() >= kMaxListed) return Fail("a list of more than 8 numbers");
      list_->push_back(value);
      return true;
    }
    return Value("a number");
  }
  bool string(string_t& value) override {
    if (metadata_) return true;
    if (depth_ != 2 || key_ != "dtype") return Fail("a string out of place");
    entries_.back().dtype = value;
    return true;
  }
  bool start_object(size_t) override {
    ++depth_;
    if (depth_ == 1) return true;
    if (depth_ == 2) {
      metadata_ = name_ == "__metadata__";
      if (metadata_) return true;
      if (entries_.size() >= kMaxEntries) return Fail("too many tensors");
      entries_.emplace_back();
      entries_.back().name = name_;
      return true;
    }
    return Fail("an object too deep");
  }
  bool key(string_t& value) override {
    if (depth_ == 1) {
      name_ = value;
      if (!names_.insert(value).second) return Fail("the same name twice");
      return true;
    }
    key_ = value;
    if (metadata_ || value == "dtype" || value == "shape" || value == "data_offsets") return true;
    return Fail(absl::StrCat("the unknown key ", absl::Utf8SafeCEscape(value)));
  }
  bool end_object() override {
    --depth_;
    metadata_ = false;
    return true;
  }
  bool start_array(size_t) override {
    ++depth_;
    if (depth_ != 3 || metadata_ || key_ == "dtype") return Fail("a list out of place");
    Entry& entry = entries_.back();
    list_ = key_ == "shape" ? &entry.shape : &entry.offsets;
    if (!list_->empty()) return Fail(absl::StrCat(key_, " twice"));
    if (key_ == "shape") entry.has_shape = true;
    return true;
  }
  bool end_array() override {
    --depth_;
    list_ = nullptr;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    if (error_.empty()) error_ = absl::StrCat("header is not JSON at its byte ", position);
    return false;
  }

 private:
  bool Value(absl::string_view what) { return Fail(absl::StrCat(what, " out of place")); }
  bool Fail(absl::string_view what) {
    error_ = absl::StrCat("header: ", what, name_.empty() ? "" : " at tensor ", absl::Utf8SafeCEscape(name_));
    return false;
  }

  int depth_ = 0;
  bool metadata_ = false;
  std::string name_, key_, error_;
  std::vector<uint64_t>* list_ = nullptr;
  std::vector<Entry> entries_;
  absl::flat_hash_set<std::string> names_;
};

absl::StatusOr<SourceTensor> MakeTensor(Entry entry, absl::Span<const std::byte> data) {
  const auto fail = [&entry](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", absl::Utf8SafeCEscape(entry.name), ": ", what));
  };
  if (entry.name.empty()) return fail("has no name");
  if (!entry.has_shape || entry.offsets.size() != 2 || entry.dtype.empty()) {
    return fail("lacks dtype, shape or data_offsets");
  }
  const uint64_t bits = DtypeBits(entry.dtype);
  if (bits == 0)
    return absl::UnimplementedError(absl::StrCat("tensor ", absl::Utf8SafeCEscape(entry.name), ": dtype ",
                                                 absl::Utf8SafeCEscape(entry.dtype), " is unknown"));
  SourceTensor tensor;
  uint64_t bytes = bits / 8;
  for (const uint64_t size : entry.shape) {
    if (size > (uint64_t{1} << 40) || __builtin_mul_overflow(bytes, size, &bytes))
      return fail("has an implausible shape");
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  const uint64_t begin = entry.offsets[0], end = entry.offsets[1];
  if (begin > end || end > data.size()) {
    return fail(absl::StrCat("lies at ", begin, " to ", end, " of ", data.size(), " bytes of data (truncated?)"));
  }
  if (end - begin != bytes) return fail(absl::StrCat("has ", end - begin, " bytes where its shape needs ", bytes));
  tensor.name = std::move(entry.name);
  tensor.type = std::move(entry.dtype);
  tensor.bytes = data.subspan(begin, bytes);
  return tensor;
}

}  // namespace

absl::StatusOr<std::vector<SourceTensor>> ParseSafetensors(absl::Span<const std::byte> bytes) {
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) return absl::InvalidArgumentError("is too short for a safetensors file");
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  bytes.remove_prefix(sizeof(header_bytes));
  if (header_bytes > kMaxHeader || header_bytes > bytes.size()) {
    return absl::InvalidArgumentError(absl::StrCat("is not a safetensors file or is truncated: a header of ",
                                                   header_bytes, " bytes in front of ", bytes.size()));
  }
  const char* header = reinterpret_cast<const char*>(bytes.data());
  const absl::Span<const std::byte> data = bytes.subspan(header_bytes);
  if (header_bytes == 0 || header[0] != '{') return absl::InvalidArgumentError("header is not a JSON object");
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(header, header + header_bytes, &handler)) {
    return absl::InvalidArgumentError(handler.error().empty() ? "header is not JSON" : handler.error());
  }
  std::vector<SourceTensor> tensors;
  tensors.reserve(handler.entries().size());
  for (Entry& entry : handler.entries()) {
    KVLINK_ASSIGN_OR_RETURN(SourceTensor tensor, MakeTensor(std::move(entry), data));
    tensors.push_back(std::move(tensor));
  }
  // Empty tensors sort before the one that starts at the same byte.
  std::sort(tensors.begin(), tensors.end(), [](const SourceTensor& a, const SourceTensor& b) {
    return std::make_pair(a.bytes.data(), a.bytes.size()) < std::make_pair(b.bytes.data(), b.bytes.size());
  });
  const std::byte* expected = data.data();
  for (const SourceTensor& tensor : tensors) {
    if (tensor.bytes.data() != expected) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", absl::Utf8SafeCEscape(tensor.name), ": starts at ",
                                                     tensor.bytes.data() - data.data(),
                                                     ", but the one before it ends at ", expected - data.data()));
    }
    expected += tensor.bytes.size();
  }
  if (expected != data.data() + data.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", data.data() + data.size() - expected, " bytes that belong to no tensor"));
  }
  return tensors;
}

}  // namespace kvlink::model
