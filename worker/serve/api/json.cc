// Depth and number of values are checked event by event, before the value that is too many takes memory. Errors are
// returned as values, not thrown as exceptions.
#include "worker/serve/api/json.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/utf8.h"
#include "worker/serve/api/errors.h"

namespace kvlink::serve {
namespace {

class Builder : private nlohmann::detail::json_sax_dom_parser<Json> {
  using Base = nlohmann::detail::json_sax_dom_parser<Json>;

 public:
  explicit Builder(Json& json) : Base(json, /*allow_exceptions=*/false) {}

  const absl::Status& error() const { return error_; }

  bool null() { return Count() && Base::null(); }
  bool boolean(bool value) { return Count() && Base::boolean(value); }
  bool number_integer(Json::number_integer_t value) { return Count() && Base::number_integer(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return Count() && Base::number_unsigned(value); }
  bool number_float(Json::number_float_t value, const std::string& text) {
    return Count() && Base::number_float(value, text);
  }
  bool string(std::string& value) { return Count() && Base::string(value); }
  bool binary(Json::binary_t& /*value*/) { return false; }  // not in JSON
  bool start_object(size_t size) { return Deeper() && Base::start_object(size); }
  bool key(std::string& name) { return Base::key(name); }
  bool end_object() {
    --depth_;
    return Base::end_object();
  }
  bool start_array(size_t size) { return Deeper() && Base::start_array(size); }
  bool end_array() {
    --depth_;
    return Base::end_array();
  }
  bool parse_error(size_t position, const std::string& /*token*/, const Json::exception& exception) {
    constexpr size_t kMaxReason = 160;
    // "[json.exception.parse_error.101] parse error at line 1, column 8: syntax error while ..."
    absl::string_view reason = exception.what();
    const size_t place = reason.find(": ");
    reason.remove_prefix(place != absl::string_view::npos ? place + 2 : std::min(reason.find("] ") + 2, reason.size()));
    error_ = absl::InvalidArgumentError(
        absl::StrCat("the body is not JSON at byte ", position, ": ", reason.substr(0, kMaxReason)));
    return false;
  }

 private:
  bool Count() {
    if (++values_ <= kMaxJsonValues) return true;
    error_ = TooLargeError(absl::StrCat("the body holds more than ", kMaxJsonValues, " values"));
    return false;
  }
  bool Deeper() {
    if (++depth_ <= kMaxJsonDepth) return Count();
    error_ = absl::InvalidArgumentError(
        absl::StrCat("the body is nested deeper than ", kMaxJsonDepth, " lists and objects"));
    return false;
  }

  int64_t depth_ = 0;
  int64_t values_ = 0;
  absl::Status error_;
};

absl::string_view TypeOf(const Json& json) {
  if (json.is_string()) return "a string";
  if (json.is_array()) return "a list";
  if (json.is_object()) return "an object";
  if (json.is_boolean()) return "a boolean";
  return json.is_null() ? "null" : "a number";
}

}  // namespace

absl::StatusOr<Json> ParseObject(absl::string_view body) {
  Json json;
  Builder builder(json);
  if (!Json::sax_parse(body.data(), body.data() + body.size(), &builder)) return builder.error();
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("the body must be a JSON object, not ", TypeOf(json)));
  }
  return json;
}

std::string Written(const OrderedJson& json) {
  return json.dump(/*indent=*/-1, ' ', /*ensure_ascii=*/false, OrderedJson::error_handler_t::replace);
}

std::string ServerSentEvent(absl::string_view type, const OrderedJson& data) {
  const std::string line = type.empty() ? "" : absl::StrCat("event: ", type, "\n");
  return absl::StrCat(line, "data: ", Written(data), "\n\n");
}

std::string Quoted(absl::string_view text) {
  constexpr size_t kMaxShown = 60;
  if (text.size() <= kMaxShown) return absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\"");
  text = text.substr(0, kMaxShown);
  return absl::StrCat("\"", absl::Utf8SafeCEscape(text.substr(0, ValidUtf8Prefix(text))), "...\"");
}

bool Field::is_neutral() const {
  if (!given()) return true;
  if (json_->is_number()) return json_->get<double>() == 0;
  if (json_->is_string()) return json_->get_ref<const std::string&>().empty();
  return json_->is_boolean() ? !json_->get<bool>() : json_->empty();
}

void Field::Refuse(absl::string_view what) const {
  if (error_->ok()) *error_ = ParameterError(path_, what);
}

void Field::Expect(absl::string_view expected) const {
  if (!error_->ok()) return;  // no message for each of many
  Refuse(given() ? absl::StrCat("must be ", expected, ", not ", TypeOf(*json_))
                 : absl::StrCat("is missing; must be ", expected));
}

void Field::RefuseOthers(absl::Span<const absl::string_view> known) const {
  if (!is_object()) return;
  for (const auto& [name, value] : json_->items()) {
    if (std::find(known.begin(), known.end(), name) == known.end())
      Refuse(absl::StrCat("has no member ", Quoted(name)));
  }
}

Field Field::operator[](absl::string_view member) const {
  std::string path = absl::StrCat(path_, path_.empty() ? "" : ".", member);
  if (given() && !is_object()) Expect("an object");
  if (!is_object()) return Field(nullptr, std::move(path), error_);
  const auto found = json_->find(member);
  return Field(found == json_->end() ? nullptr : &*found, std::move(path), error_);
}

std::vector<Field> Field::List(absl::string_view expected) const {
  std::vector<Field> fields;
  if (!is_list()) {
    Expect(expected);
    return fields;
  }
  for (size_t i = 0; i < json_->size(); ++i) {
    fields.push_back(Field(&(*json_)[i], absl::StrCat(path_, "[", i, "]"), error_));
  }
  return fields;
}

std::vector<std::pair<std::string, Field>> Field::Members(absl::string_view expected) const {
  std::vector<std::pair<std::string, Field>> members;
  if (!is_object()) {
    Expect(expected);
    return members;
  }
  for (const auto& [name, value] : json_->items()) members.emplace_back(name, (*this)[name]);
  return members;
}

std::string Field::Text(absl::string_view expected) const {
  if (is_text()) return json_->get<std::string>();
  Expect(expected);
  return "";
}

std::string Field::TextOr(absl::string_view value, int64_t max_bytes) const {
  if (!given()) return std::string(value);
  std::string text = Text();
  if (static_cast<int64_t>(text.size()) <= max_bytes) return text;
  Refuse(absl::StrCat("has ", text.size(), " bytes; must have at most ", max_bytes));
  return "";
}

std::string Field::NonEmptyText(int64_t max_bytes) const {
  if (!given()) return Text();
  std::string text = TextOr("", max_bytes);
  if (text.empty()) Refuse("must not be empty");
  return text;
}

int64_t Field::Integer(int64_t min, int64_t max) const {
  constexpr double kExact = 9007199254740992;  // 2^53: beyond it, a fraction may have been lost
  const std::string expected = absl::StrCat("an integer from ", min, " to ", max);
  if (!given() || !json_->is_number()) {
    Expect(expected);
    return min;
  }
  std::optional<int64_t> value;
  if (json_->is_number_float()) {
    const double number = json_->get<double>();
    if (std::trunc(number) == number && std::abs(number) <= kExact) value = static_cast<int64_t>(number);
  } else if (!json_->is_number_unsigned() || json_->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)) {
    value = json_->get<int64_t>();
  }
  if (value.has_value() && *value >= min && *value <= max) return *value;
  Refuse(absl::StrCat("is ", json_->dump(), "; must be ", expected));
  return min;
}

double Field::Number(double min, double max) const {
  const std::string expected = absl::StrCat("a number from ", min, " to ", max);
  if (!given() || !json_->is_number()) {
    Expect(expected);
    return min;
  }
  const double value = json_->get<double>();
  if (value >= min && value <= max) return value;
  Refuse(absl::StrCat("is ", json_->dump(), "; must be ", expected));
  return min;
}

bool Field::Flag() const {
  if (given() && json_->is_boolean()) return json_->get<bool>();
  Expect("true or false");
  return false;
}

}  // namespace kvlink::serve
