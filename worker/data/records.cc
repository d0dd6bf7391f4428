// An array is cut where the brackets outside of strings are balanced, and the JSON parser sees only its elements, so
// that a damaged one does not hide those after it.
#include "worker/data/records.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "base/utf8.h"
#include "worker/ingest/source/line_reader.h"

namespace kvlink::data {
namespace {

constexpr size_t kBufferBytes = 64 << 10;

bool IsSpace(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }

// The stream from its beginning again, of which `begun` has been read.
class BegunStream final : public ingest::ByteStream {
 public:
  BegunStream(std::string begun, std::unique_ptr<ingest::ByteStream> rest)
      : begun_(std::move(begun)), rest_(std::move(rest)) {}
  absl::StatusOr<size_t> Read(absl::Span<char> out) override {
    const size_t n = std::min(out.size(), begun_.size() - used_);
    if (n == 0) return rest_->Read(out);
    std::memcpy(out.data(), begun_.data() + used_, n);
    used_ += n;
    return n;
  }
  int64_t position() const override { return rest_->position(); }

 private:
  const std::string begun_;
  size_t used_ = 0;
  const std::unique_ptr<ingest::ByteStream> rest_;
};

class Lines final : public Records {
 public:
  Lines(std::string path, std::unique_ptr<ingest::ByteStream> stream, int64_t max_bytes)
      : path_(std::move(path)), lines_(std::move(stream), max_bytes) {}
  absl::StatusOr<std::optional<Record>> Next() override {
    KVLINK_ASSIGN_OR_RETURN(std::optional<ingest::LineReader::Line> line, lines_.Next());
    if (!line) return std::optional<Record>();
    return Record{std::move(line->text), absl::StrCat(path_, ":", line->number), line->number, line->too_long};
  }

 private:
  const std::string path_;
  ingest::LineReader lines_;
};

class Elements final : public Records {
 public:
  // `stream` begins after the opening bracket.
  Elements(std::string path, std::unique_ptr<ingest::ByteStream> stream, int64_t max_bytes)
      : path_(std::move(path)), stream_(std::move(stream)), max_bytes_(static_cast<size_t>(max_bytes)) {}

  absl::StatusOr<std::optional<Record>> Next() override {
    if (ended_) return std::optional<Record>();
    KVLINK_RETURN_IF_ERROR(SkipSpace());
    if (begin_ == end_) return NoEnd();
    if (buffer_[begin_] == ']') return End();
    if (number_ > 0) {
      if (buffer_[begin_] != ',') {
        ended_ = true;
        return absl::InvalidArgumentError(absl::StrCat(Where(), ": \",\" or \"]\" expected after it"));
      }
      ++begin_;
    }
    ++number_;
    return Element();
  }

 private:
  std::string Where() const { return number_ == 0 ? path_ : absl::StrCat(path_, ", element ", number_); }
  absl::Status NoEnd() {
    ended_ = true;
    return absl::InvalidArgumentError(absl::StrCat(Where(), ": the file ends before the array does; fetch it again"));
  }
  // Afterwards something is buffered, unless the stream has ended.
  absl::Status Fill() {
    if (begin_ < end_) return absl::OkStatus();
    begin_ = end_ = 0;
    KVLINK_ASSIGN_OR_RETURN(end_, stream_->Read(absl::MakeSpan(buffer_)));
    return absl::OkStatus();
  }
  absl::Status SkipSpace() {
    do {
      KVLINK_RETURN_IF_ERROR(Fill());
      while (begin_ < end_ && IsSpace(buffer_[begin_])) ++begin_;
    } while (begin_ == end_ && end_ > 0);
    return absl::OkStatus();
  }
  absl::StatusOr<std::optional<Record>> End() {
    ended_ = true;
    ++begin_;
    KVLINK_RETURN_IF_ERROR(SkipSpace());
    if (begin_ == end_) return std::optional<Record>();
    return absl::InvalidArgumentError(absl::StrCat(path_, ": something follows the array; one array was expected"));
  }
  absl::StatusOr<std::optional<Record>> Element() {
    Record record{"", Where(), number_, false};
    size_t depth = 0;
    bool in_string = false, escaped = false;
    for (;;) {
      KVLINK_RETURN_IF_ERROR(Fill());
      if (begin_ == end_) return NoEnd();
      const size_t from = begin_;
      bool whole = false;
      for (; begin_ < end_ && !whole; ++begin_) {
        const char c = buffer_[begin_];
        if (in_string) {
          if (c == '"' && !escaped) in_string = false;
          escaped = c == '\\' && !escaped;
        } else if (depth == 0 && (c == ',' || c == ']' || c == '}')) {
          whole = true;
          --begin_;  // belongs to the array
        } else {
          in_string = c == '"';
          if (c == '[' || c == '{') ++depth;
          if (c == ']' || c == '}') --depth;
        }
      }
      const size_t room = max_bytes_ - record.text.size();
      record.too_long = record.too_long || begin_ - from > room;
      record.text.append(buffer_.data() + from, std::min(begin_ - from, room));
      if (whole) return std::optional<Record>(std::move(record));
    }
  }

  const std::string path_;
  const std::unique_ptr<ingest::ByteStream> stream_;
  const size_t max_bytes_;
  std::vector<char> buffer_ = std::vector<char>(kBufferBytes);
  size_t begin_ = 0;
  size_t end_ = 0;
  int64_t number_ = 0;
  bool ended_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Records>> Records::Open(const std::string& path, bool arrays, int64_t max_bytes,
                                                       const ingest::Interrupt* interrupt) {
  KVLINK_ASSIGN_OR_RETURN(auto stream, ingest::ByteStream::Open(path, interrupt));
  std::string begun(kBufferBytes, '\0');
  KVLINK_ASSIGN_OR_RETURN(const size_t bytes, stream->Read(absl::MakeSpan(&begun[0], begun.size())));
  begun.resize(bytes);
  absl::string_view rest = WithoutByteOrderMark(begun);
  const bool array = arrays && absl::StartsWith(absl::StripLeadingAsciiWhitespace(rest), "[");
  if (array) rest = absl::StripLeadingAsciiWhitespace(rest).substr(1);
  stream = std::make_unique<BegunStream>(std::string(rest), std::move(stream));
  std::unique_ptr<Records> records;
  if (array) {
    records = std::make_unique<Elements>(path, std::move(stream), max_bytes);
  } else {
    records = std::make_unique<Lines>(path, std::move(stream), max_bytes);
  }
  return records;
}

}  // namespace kvlink::data
