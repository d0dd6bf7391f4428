// Shared by all tokenizers: encodes spans of different trust, and streams bytes that may end inside a character.
#include "worker/text/tokenizer.h"

#include "base/status.h"
#include "base/utf8.h"

namespace kvlink::model {

absl::StatusOr<std::vector<int32_t>> EncodeSpans(const Tokenizer& tokenizer, absl::Span<const TextSpan> spans) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < spans.size();) {
    std::string text;
    const bool trusted = spans[i].trusted;
    for (; i < spans.size() && (spans[i].trusted == trusted || spans[i].text.empty()); ++i) text += spans[i].text;
    if (text.empty()) continue;
    KVLINK_ASSIGN_OR_RETURN(const std::vector<int32_t> part, ids.empty()
                                                                 ? tokenizer.Encode(text, trusted)
                                                                 : tokenizer.EncodeAfter(ids.back(), text, trusted));
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

std::string StreamDecoder::Push(int32_t id) {
  const std::string bytes = first_ ? tokenizer_->FirstTokenBytes(id) : tokenizer_->TokenBytes(id);
  first_ = first_ && tokenizer_->TokenBytes(id).empty();
  pending_ += bytes;
  std::string out;
  pending_.erase(0, AppendLossyUtf8(pending_, /*final=*/false, out));
  return out;
}

std::string StreamDecoder::Finish() {
  std::string out;
  AppendLossyUtf8(pending_, /*final=*/true, out);
  pending_.clear();
  first_ = true;
  return out;
}

}  // namespace kvlink::model
