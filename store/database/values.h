// Values to and from the server, in its binary format: no escaping, no parsing, and arrays in one piece.
// Thread-safety: one thread at a time for each object.
#ifndef KVLINK_STORE_DATABASE_VALUES_H_
#define KVLINK_STORE_DATABASE_VALUES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

struct pg_result;

namespace kvlink::store::database {

// The parameters $1, $2, ... of a statement. Methods append one and return the object.
class Parameters {
 public:
  Parameters&& Integer(int64_t value) &&;  // bigint, or xid8 if the statement says so
  Parameters&& Text(absl::string_view value) &&;
  Parameters&& Bytes(absl::string_view value) && { return std::move(*this).Text(value); }
  Parameters&& Integers(absl::Span<const int64_t> values) &&;
  Parameters&& Flags(absl::Span<const char> values) &&;  // each 0 or 1
  Parameters&& Texts(absl::Span<const absl::string_view> values) &&;
  Parameters&& BytesOf(absl::Span<const absl::string_view> values) &&;

  const std::vector<std::string>& values() const { return values_; }

 private:
  std::vector<std::string> values_;
};

// A column of a result.
enum class Column : char { kInteger, kText, kBytes, kFlag, kTransaction, kNothing };

// The rows that a statement returned. Their columns were checked against the statement's.
class Rows {
 public:
  explicit Rows(pg_result* result);  // takes ownership

  int size() const;
  bool IsNull(int row, int column) const;
  // The value of a non-null column of that kind. A view lives as long as the object.
  int64_t Integer(int row, int column) const;
  uint64_t Transaction(int row, int column) const { return static_cast<uint64_t>(Integer(row, column)); }
  bool Flag(int row, int column) const;
  absl::string_view Bytes(int row, int column) const;
  // The number of rows changed by a statement that returns none.
  int64_t changed() const;

 private:
  struct Clear {
    void operator()(pg_result* result) const;
  };
  std::unique_ptr<pg_result, Clear> result_;
};

// Whether the result has exactly these columns, in the binary format.
bool HasColumns(const pg_result* result, absl::Span<const Column> columns);

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_VALUES_H_
