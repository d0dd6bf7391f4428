// JSON as clients send it and as it is sent to them. Thread-safety: pure functions; a Field by one thread at a time.
#ifndef KVLINK_WORKER_SERVE_API_JSON_H_
#define KVLINK_WORKER_SERVE_API_JSON_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"

namespace kvlink::serve {

using Json = nlohmann::json;                 // what is read
using OrderedJson = nlohmann::ordered_json;  // what is written, as a reader expects it

inline constexpr int64_t kMaxJsonDepth = 64;
// Of one body: as many empty objects take 40 MiB, names and texts not counted.
inline constexpr int64_t kMaxJsonValues = int64_t{1} << 18;

// The object that a body holds. Of members with one name the last counts, as with other servers. INVALID_ARGUMENT: no
// JSON in UTF-8, nested too deep, or another value than an object. TooLargeError (errors.h): too many values.
absl::StatusOr<Json> ParseObject(absl::string_view body);

// Without spaces or line breaks. Bytes that are not UTF-8 become U+FFFD.
std::string Written(const OrderedJson& json);
// An event of a stream (text/event-stream) with a type, or with none.
std::string ServerSentEvent(absl::string_view type, const OrderedJson& data);

// What a client wrote, for a message: in quotes, escaped, and cut if it is long.
std::string Quoted(absl::string_view text);

// A value and where it stands: "messages[2].content". The first that is wrong is remembered as a ParameterError, so
// that a parser reads on without checks and asks once, at its end. Null is like a value that is not there: clients send
// it for what they do not set. Lifetime: the object and the error outlive its fields.
class Field {
 public:
  // The object itself. `error`: OK, and later what is wrong with it.
  Field(const Json& object, absl::Status* error) : json_(&object), error_(error) {}

  bool given() const { return json_ != nullptr && !json_->is_null(); }
  bool is_text() const { return json_ != nullptr && json_->is_string(); }
  bool is_list() const { return json_ != nullptr && json_->is_array(); }
  bool is_object() const { return json_ != nullptr && json_->is_object(); }
  // Asks for nothing: not given, false, zero, or without contents.
  bool is_neutral() const;
  // Given, and equal to `value`.
  bool Equals(const Json& value) const { return given() && *json_ == value; }

  // A member, which may not be given. Of another value than an object: an error.
  Field operator[](absl::string_view member) const;

  // What follows is an error and empty, or the least that is allowed, if the value is not given, or not like that.
  std::vector<Field> List(absl::string_view expected = "a list") const;
  // By name, in the order of the names.
  std::vector<std::pair<std::string, Field>> Members(absl::string_view expected) const;
  std::string Text(absl::string_view expected = "a string") const;  // may be empty
  std::string NonEmptyText(int64_t max_bytes = INT64_MAX) const;
  int64_t Integer(int64_t min, int64_t max) const;  // written as 16 or 16.0
  double Number(double min, double max) const;
  bool Flag() const;

  // The same, or `value` if it is not given.
  std::string TextOr(absl::string_view value, int64_t max_bytes = INT64_MAX) const;
  int64_t IntegerOr(int64_t value, int64_t min, int64_t max) const { return given() ? Integer(min, max) : value; }
  double NumberOr(double value, double min, double max) const { return given() ? Number(min, max) : value; }
  bool FlagOr(bool value) const { return given() ? Flag() : value; }

  // Remembers that the value is wrong: "messages[2].content: <what>".
  void Refuse(absl::string_view what) const;
  // Refuses every member with a name that is not `known`.
  void RefuseOthers(absl::Span<const absl::string_view> known) const;

 private:
  Field(const Json* json, std::string path, absl::Status* error) : json_(json), path_(std::move(path)), error_(error) {}
  void Expect(absl::string_view expected) const;

  const Json* json_;  // nullptr: not there
  std::string path_;  // empty: of the object itself
  absl::Status* error_;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_API_JSON_H_
