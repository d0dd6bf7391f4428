// A description says what was found by its type alone: a value may be long.
#include "worker/data/fields.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace kvlink::data {
namespace {

std::string Found(const nlohmann::json& json) {
  if (json.is_string()) return json.get_ref<const std::string&>().empty() ? "an empty string" : "a string";
  if (json.is_array()) return json.empty() ? "an empty list" : "a list";
  if (json.is_object()) return "an object";
  if (json.is_boolean()) return "a boolean";
  return json.is_null() ? "null" : "a number";
}

}  // namespace

void Field::Expect(absl::string_view expected) const {
  if (!problem_->empty()) return;
  *problem_ = absl::StrCat(path_, path_.empty() ? "" : ": ", json_ == nullptr ? "missing, " : "", "expected ", expected,
                           json_ == nullptr ? "" : absl::StrCat(", found ", Found(*json_)));
}

bool Field::Has(absl::string_view member) const {
  if (!IsObject()) return false;
  const auto it = json_->find(std::string(member));
  return it != json_->end() && !it->is_null();
}

Field Field::operator[](absl::string_view member) const {
  const std::string path = absl::StrCat(path_, path_.empty() ? "" : ".", "\"", member, "\"");
  if (json_ != nullptr && !json_->is_object()) Expect(absl::StrCat("an object with the member \"", member, "\""));
  return Field(Has(member) ? &*json_->find(std::string(member)) : nullptr, path, problem_);
}

Field Field::operator[](size_t element) const {
  const bool there = json_ != nullptr && json_->is_array() && element < json_->size();
  if (json_ != nullptr && !there) Expect(absl::StrCat("a list of ", element + 1, " or more"));
  return Field(there ? &(*json_)[element] : nullptr, absl::StrCat(path_, "[", element, "]"), problem_);
}

std::string Field::StringOr(absl::string_view expected) const {
  if (json_ != nullptr && json_->is_string()) return json_->get<std::string>();
  Expect(expected);
  return "";
}

std::string Field::AnyText() const { return StringOr("a string"); }

std::string Field::Text() const {
  std::string text = StringOr("a string");
  if (absl::StripAsciiWhitespace(text).empty()) Expect("a string with text");
  return text;
}

std::string Field::TextOrNumber() const {
  if (json_ != nullptr && json_->is_number_integer()) return absl::StrCat(json_->get<int64_t>());
  return StringOr("a string or an integer");
}

bool Field::Bool() const {
  if (json_ != nullptr && json_->is_boolean()) return json_->get<bool>();
  Expect("true or false");
  return false;
}

std::vector<Field> Field::List() const {
  std::vector<Field> fields;
  if (json_ == nullptr || !json_->is_array()) {
    Expect("a list");
    return fields;
  }
  for (size_t i = 0; i < json_->size(); ++i) {
    fields.push_back(Field(&(*json_)[i], absl::StrCat(path_, "[", i, "]"), problem_));
  }
  return fields;
}

std::vector<std::string> Field::Texts() const {
  std::vector<std::string> texts;
  for (const Field& field : List()) texts.push_back(field.AnyText());
  return texts;
}

}  // namespace kvlink::data
