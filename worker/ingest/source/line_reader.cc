#include "worker/ingest/source/line_reader.h"

#include <algorithm>
#include <cstring>

#include "base/status.h"

namespace kvlink::ingest {

absl::StatusOr<std::optional<LineReader::Line>> LineReader::Next() {
  Line line;
  bool any = false;
  for (;;) {
    if (begin_ == end_) {
      filled_from_ = stream_->position();
      KVLINK_ASSIGN_OR_RETURN(end_, stream_->Read(absl::MakeSpan(buffer_)));
      begin_ = 0;
      if (end_ == 0) break;
    }
    any = true;
    const char* const from = buffer_.data() + begin_;
    const char* const newline = static_cast<const char*>(std::memchr(from, '\n', end_ - begin_));
    const size_t n = newline == nullptr ? end_ - begin_ : static_cast<size_t>(newline - from);
    const size_t room = static_cast<size_t>(max_bytes_) - line.text.size();
    line.too_long = line.too_long || n > room;
    line.text.append(from, std::min(n, room));
    begin_ += n;
    if (newline != nullptr) {
      ++begin_;
      break;
    }
  }
  if (!any) return std::optional<Line>();
  line.number = ++number_;
  if (!line.text.empty() && line.text.back() == '\r') line.text.pop_back();
  return std::optional<Line>(std::move(line));
}

// Interpolated: the bytes buffered at once may stem from more or fewer compressed bytes.
int64_t LineReader::position() const {
  if (end_ == 0) return stream_->position();
  const double share = static_cast<double>(begin_) / static_cast<double>(end_);
  return filled_from_ + static_cast<int64_t>(share * static_cast<double>(stream_->position() - filled_from_));
}

}  // namespace kvlink::ingest
