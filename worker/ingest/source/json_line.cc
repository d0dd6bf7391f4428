// The parser reports events, and only the three members are built: other values may be large, deeply nested, or numbers
// that fit no type. Errors are returned as values, not thrown as exceptions.
#include "worker/ingest/source/json_line.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace kvlink::ingest {
namespace {

using Json = nlohmann::json;

// A member, as far as it is needed.
struct Member {
  absl::string_view name;
  bool there = false;
  bool twice = false;
  bool null = false;
  std::optional<std::string> string;
  std::optional<std::string> integer;
};

class Handler final : public nlohmann::json_sax<Json> {
 public:
  Member id{.name = "id"}, title{.name = "title"}, text{.name = "text"};
  absl::string_view type;  // of the whole value
  absl::Status error;

  bool null() override {
    if (Member* member = Value("null")) member->null = true;
    return true;
  }
  bool boolean(bool /*value*/) override {
    Value("boolean");
    return true;
  }
  bool number_integer(number_integer_t value) override {
    if (Member* member = Value("number")) member->integer = absl::StrCat(value);
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (Member* member = Value("number")) member->integer = absl::StrCat(value);
    return true;
  }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override {
    Value("number");
    return true;
  }
  bool string(string_t& value) override {
    if (Member* member = Value("string")) member->string = std::move(value);
    return true;
  }
  bool binary(binary_t& /*value*/) override { return true; }
  bool start_object(size_t /*size*/) override { return Open("object"); }
  bool end_object() override { return Close(); }
  bool start_array(size_t /*size*/) override { return Open("array"); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    if (depth_ != 1) return true;
    current_ = nullptr;
    for (Member* member : {&id, &title, &text}) {
      if (member->name == name) current_ = member;
    }
    if (current_ == nullptr) return true;
    current_->twice = current_->there;
    current_->there = true;
    return true;
  }
  bool parse_error(size_t position, const std::string& /*token*/, const Json::exception& exception) override {
    constexpr size_t kMaxReason = 160;
    // "[json.exception.parse_error.101] parse error at line 1, column 8: syntax error while ..."
    absl::string_view reason = exception.what();
    const size_t place = reason.find(": ");
    reason.remove_prefix(place != absl::string_view::npos ? place + 2 : std::min(reason.find("] ") + 2, reason.size()));
    error = absl::InvalidArgumentError(absl::StrCat("not JSON at byte ", position, ": ", reason.substr(0, kMaxReason)));
    return false;
  }

 private:
  // Where the current value goes; nullptr if it is not needed.
  Member* Value(absl::string_view of_type) {
    if (depth_ == 0) type = of_type;
    return depth_ == 1 ? std::exchange(current_, nullptr) : nullptr;
  }
  bool Open(absl::string_view of_type) {
    Value(of_type);
    ++depth_;
    return true;
  }
  bool Close() {
    --depth_;
    return true;
  }

  int64_t depth_ = 0;
  Member* current_ = nullptr;  // named by the last key
};

}  // namespace

absl::Status ParseJsonLine(const std::string& line, JsonLine* out) {
  Handler read;
  if (!Json::sax_parse(line, &read)) return read.error;
  for (const Member* member : {&read.id, &read.title, &read.text}) {
    if (member->twice) return absl::InvalidArgumentError(absl::StrCat("member \"", member->name, "\" is there twice"));
  }
  if (read.type != "object") {
    return absl::InvalidArgumentError(
        absl::StrCat("not a JSON object but ", read.type, "; a line looks like {\"id\": \"...\", \"text\": \"...\"}"));
  }
  if (!read.id.there) return absl::InvalidArgumentError("member \"id\" is missing");
  if (!read.id.string && !read.id.integer) {
    return absl::InvalidArgumentError("member \"id\" is neither a string nor an integer");
  }
  out->id = *std::move(read.id.string ? read.id.string : read.id.integer);
  if (read.title.string) {
    out->title = *std::move(read.title.string);
  } else if (read.title.there && !read.title.null) {
    return absl::InvalidArgumentError("member \"title\" is not a string");
  }
  if (!read.text.string) return absl::InvalidArgumentError("member \"text\" is missing or not a string");
  out->text = *std::move(read.text.string);
  return absl::OkStatus();
}

}  // namespace kvlink::ingest
