// The model fingerprint does not cover the tokenizer, which is a file of its own and may be corrected later. So the
// digest covers the vocabulary and the tokens of a sample that shows how the tokenizer splits and normalises.
#include "worker/ingest/content.h"

#include <cstdint>
#include <vector>

#include "proto/digest.h"

namespace kvlink::ingest {
namespace {

constexpr absl::string_view kMagic = "KVLINKCT";
constexpr uint32_t kVersion = 1;
// Letters of several scripts, composed and decomposed, digits, punctuation, contractions, runs of white space.
constexpr absl::string_view kSample =
    "The QUICK brown fox's 1,234,567.89 jumps  over\tthe lazy dog; it's 2024-01-31!\r\n\r\n   Don't we'll I'd "
    "\xC3\x9C"
    "ber stra\xC3\x9F"
    "e na\xC3\xAFve e\xCC\x81t\xC3\xA9 \xD0\xBF\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82 "
    "\xE4\xBD\xA0\xE5\xA5\xBD\xE3\x80\x82\xEF\xBC\xA1 \xF0\x9F\x99\x82 <|im_start|> </s> x=[a+b]*{c}//#$%^&_\n";

template <typename T>
void AppendNumber(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendText(absl::string_view text, std::string* out) {
  AppendNumber<uint64_t>(text.size(), out);
  out->append(text.data(), text.size());
}

std::array<uint8_t, 32> TokenizerDigest(const model::Tokenizer& tokenizer) {
  Sha256 hash;
  std::string record;
  const int64_t size = tokenizer.vocab_size();
  AppendNumber<uint64_t>(static_cast<uint64_t>(size), &record);
  for (int32_t id = 0; id < size; ++id) {
    AppendText(tokenizer.TokenBytes(id), &record);
    AppendNumber<uint8_t>(tokenizer.IsSpecial(id) ? 1 : 0, &record);
  }
  const auto sample = tokenizer.Encode(kSample, /*parse_special=*/false);
  const std::vector<int32_t> tokens = sample.ok() ? *sample : std::vector<int32_t>();
  AppendNumber<uint64_t>(tokens.size(), &record);
  for (const int32_t token : tokens) AppendNumber<int32_t>(token, &record);
  hash.Update(record);
  return hash.Finish();
}

}  // namespace

ContentDigester::ContentDigester(const Identity& nothing, const model::Tokenizer& tokenizer,
                                 const link::LinkProfile& profile, const ChunkLimits& limits)
    : head_(kMagic) {
  AppendNumber<uint32_t>(kVersion, &head_);
  head_.append(reinterpret_cast<const char*>(nothing.bytes.data()), nothing.bytes.size());
  const std::array<uint8_t, 32> digest = TokenizerDigest(tokenizer);
  head_.append(reinterpret_cast<const char*>(digest.data()), digest.size());
  AppendText(profile.document_template, &head_);
  AppendNumber<uint64_t>(static_cast<uint64_t>(limits.document), &head_);
  AppendNumber<uint64_t>(static_cast<uint64_t>(limits.part), &head_);
}

ContentDigest ContentDigester::Of(absl::string_view title, absl::string_view text) const {
  std::string record = head_;
  AppendText(title, &record);
  AppendNumber<uint64_t>(text.size(), &record);
  Sha256 hash;
  hash.Update(record);
  hash.Update(text);
  ContentDigest content;
  content.bytes = hash.Finish();
  return content;
}

}  // namespace kvlink::ingest
