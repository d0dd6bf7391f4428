// The members of a record, by name. The first that is missing or of another type is remembered and described, so that a
// format's parser reads on without checks and asks once, at its end. Private to worker/data.
// Thread-safety: one thread at a time. Lifetime: a record outlives its fields.
#ifndef KVLINK_WORKER_DATA_FIELDS_H_
#define KVLINK_WORKER_DATA_FIELDS_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace kvlink::data {

// A value and where it stands: "context"[3][1].
class Field {
 public:
  // The record itself. `problem`: empty, and later what is wrong with it.
  Field(const nlohmann::json& record, std::string* problem) : json_(&record), problem_(problem) {}

  // Whether there is such a member, other than null.
  bool Has(absl::string_view member) const;
  // Whether the value is an object with members, as opposed to a list.
  bool IsObject() const { return json_ != nullptr && json_->is_object(); }
  Field operator[](absl::string_view member) const;
  Field operator[](size_t element) const;

  // The values below are empty if the field has another type, is missing, or is a string or list without contents.
  std::string Text() const;     // not blank
  std::string AnyText() const;  // may be empty
  std::string TextOrNumber() const;
  bool Bool() const;
  std::vector<Field> List() const;
  std::vector<std::string> Texts() const;  // a list of strings, which may be empty ones

  // Remembers that `expected` was expected here.
  void Expect(absl::string_view expected) const;

 private:
  Field(const nlohmann::json* json, std::string path, std::string* problem)
      : json_(json), path_(std::move(path)), problem_(problem) {}
  std::string StringOr(absl::string_view expected) const;

  const nlohmann::json* json_;  // nullptr: missing
  std::string path_;
  std::string* problem_;
};

}  // namespace kvlink::data

#endif  // KVLINK_WORKER_DATA_FIELDS_H_
