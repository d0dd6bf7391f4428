// Of several stop strings the one that is complete first ends the answer, so that the result does not depend on how the
// text was divided into tokens.
#include "worker/serve/answer_text.h"

#include <algorithm>

namespace kvlink::serve {
namespace {

// The length of the longest suffix of `text` that begins `stop` without being all of it.
size_t BegunBytes(absl::string_view text, absl::string_view stop) {
  for (size_t bytes = std::min(text.size(), stop.size() - 1); bytes > 0; --bytes) {
    if (text.substr(text.size() - bytes) == stop.substr(0, bytes)) return bytes;
  }
  return 0;
}

}  // namespace

std::string AnswerText::Push(int32_t token) {
  return tokenizer_->IsSpecial(token) ? std::string() : Take(decoder_.Push(token), /*last=*/false);
}

std::string AnswerText::Finish() { return stopped_ ? std::string() : Take(decoder_.Finish(), /*last=*/true); }

std::string AnswerText::Take(absl::string_view text, bool last) {
  held_.append(text.data(), text.size());
  size_t begin = std::string::npos, end = std::string::npos, begun = 0;
  for (const std::string& stop : stop_) {
    const size_t place = held_.find(stop);
    if (place == std::string::npos) {
      begun = std::max(begun, BegunBytes(held_, stop));
    } else if (place + stop.size() < end || (place + stop.size() == end && place < begin)) {
      begin = place;
      end = place + stop.size();
      stop_string_ = stop;
    }
  }
  stopped_ = begin != std::string::npos;
  const size_t given = stopped_ ? begin : last ? held_.size() : held_.size() - begun;
  std::string out = held_.substr(0, given);
  held_.erase(0, stopped_ ? held_.size() : given);
  return out;
}

}  // namespace kvlink::serve
