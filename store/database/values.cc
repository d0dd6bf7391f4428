// The binary formats of PostgreSQL: numbers are big-endian, an array is a head, then each element with its length.
#include "store/database/values.h"

#include <libpq-fe.h>

#include <cstdlib>
#include <limits>
#include <type_traits>
#include <utility>

namespace kvlink::store::database {
namespace {

// PostgreSQL's types have fixed numbers (pg_type.dat).
constexpr Oid kBool = 16, kBytea = 17, kInt8 = 20, kTextOid = 25, kXid8 = 5069, kVoid = 2278;

template <typename T>
void AppendBigEndian(T value, std::string* out) {
  for (int shift = static_cast<int>(sizeof(T)) * 8 - 8; shift >= 0; shift -= 8) {
    out->push_back(static_cast<char>(static_cast<std::make_unsigned_t<T>>(value) >> shift & 0xff));
  }
}

std::string ArrayHead(Oid element, size_t elements) {
  std::string head;
  AppendBigEndian<int32_t>(elements == 0 ? 0 : 1, &head);  // dimensions
  AppendBigEndian<int32_t>(0, &head);                      // no nulls
  AppendBigEndian<uint32_t>(element, &head);
  if (elements == 0) return head;
  AppendBigEndian<int32_t>(static_cast<int32_t>(elements), &head);
  AppendBigEndian<int32_t>(1, &head);  // the first index
  return head;
}

std::string ArrayOf(Oid element, absl::Span<const absl::string_view> values) {
  size_t bytes = 0;
  for (const absl::string_view value : values) bytes += value.size() + 4;
  std::string array = ArrayHead(element, values.size());
  array.reserve(array.size() + bytes);
  for (const absl::string_view value : values) {
    AppendBigEndian<int32_t>(static_cast<int32_t>(value.size()), &array);
    array.append(value.data(), value.size());
  }
  return array;
}

Oid TypeOf(Column column) {
  switch (column) {
    case Column::kInteger:
      return kInt8;
    case Column::kText:
      return kTextOid;
    case Column::kBytes:
      return kBytea;
    case Column::kFlag:
      return kBool;
    case Column::kTransaction:
      return kXid8;
    case Column::kNothing:
      return kVoid;
  }
  return InvalidOid;
}

}  // namespace

Parameters&& Parameters::Integer(int64_t value) && {
  AppendBigEndian(value, &values_.emplace_back());
  return std::move(*this);
}

Parameters&& Parameters::Text(absl::string_view value) && {
  values_.emplace_back(value);
  return std::move(*this);
}

Parameters&& Parameters::Integers(absl::Span<const int64_t> values) && {
  std::string& array = values_.emplace_back(ArrayHead(kInt8, values.size()));
  for (const int64_t value : values) {
    AppendBigEndian<int32_t>(sizeof(value), &array);
    AppendBigEndian(value, &array);
  }
  return std::move(*this);
}

Parameters&& Parameters::Flags(absl::Span<const char> values) && {
  std::string& array = values_.emplace_back(ArrayHead(kBool, values.size()));
  for (const char value : values) {
    AppendBigEndian<int32_t>(1, &array);
    array.push_back(value);
  }
  return std::move(*this);
}

Parameters&& Parameters::Texts(absl::Span<const absl::string_view> values) && {
  values_.push_back(ArrayOf(kTextOid, values));
  return std::move(*this);
}

Parameters&& Parameters::BytesOf(absl::Span<const absl::string_view> values) && {
  values_.push_back(ArrayOf(kBytea, values));
  return std::move(*this);
}

Rows::Rows(pg_result* result) : result_(result) {}

void Rows::Clear::operator()(pg_result* result) const { PQclear(result); }

int Rows::size() const { return PQntuples(result_.get()); }

bool Rows::IsNull(int row, int column) const { return PQgetisnull(result_.get(), row, column) != 0; }

absl::string_view Rows::Bytes(int row, int column) const {
  return {PQgetvalue(result_.get(), row, column), static_cast<size_t>(PQgetlength(result_.get(), row, column))};
}

int64_t Rows::Integer(int row, int column) const {
  uint64_t value = 0;
  for (const char byte : Bytes(row, column)) value = value << 8 | static_cast<uint8_t>(byte);
  return static_cast<int64_t>(value);
}

bool Rows::Flag(int row, int column) const { return Integer(row, column) != 0; }

int64_t Rows::changed() const { return std::strtoll(PQcmdTuples(result_.get()), nullptr, 10); }

bool HasColumns(const pg_result* result, absl::Span<const Column> columns) {
  if (PQnfields(result) != static_cast<int>(columns.size())) return false;
  for (size_t i = 0; i < columns.size(); ++i) {
    const int column = static_cast<int>(i);
    if (PQftype(result, column) != TypeOf(columns[i])) return false;
    if (columns[i] != Column::kNothing && PQfformat(result, column) != 1) return false;
  }
  return true;
}

}  // namespace kvlink::store::database
