// Digests are XXH3-64 of the XXH3-64 of each text, in hexadecimal.
#include "worker/train/identity.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <system_error>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/checksum.h"
#include "base/little_endian.h"

namespace kvlink::train {
namespace {

class Digest {
 public:
  void Add(absl::string_view bytes) { AppendField(Xxh3(bytes.data(), bytes.size()), &of_each_); }
  std::string Hex() const { return absl::StrCat(absl::Hex(Xxh3(of_each_.data(), of_each_.size()), absl::kZeroPad16)); }

 private:
  std::string of_each_;
};

std::string DigestOf(const model::Weights& weights) {
  Digest digest;
  for (const model::SourceTensor& tensor : weights.tensors()) {
    digest.Add(absl::StrCat(tensor.name, " ", tensor.type, " ", absl::StrJoin(tensor.shape, ",")));
    digest.Add({reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()});
  }
  return digest.Hex();
}

std::string DigestOf(const model::Tokenizer& tokenizer) {
  Digest digest;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) digest.Add(tokenizer.TokenBytes(id));
  return digest.Hex();
}

std::string Number(const std::optional<int32_t>& token) { return token ? absl::StrCat(*token) : "none"; }

// Of how it cuts a text, which depends on much else than its tokens.
std::string CutDigest(const model::Tokenizer& tokenizer) {
  Digest digest;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) digest.Add(tokenizer.IsSpecial(id) ? "special" : "");
  digest.Add(Number(tokenizer.bos()));
  const auto cut = tokenizer.Encode(
      "In 1987, Zo\u00eb's caf\u00e9 sold 12345 \u5929\u6c17 cakes;  WE'LL see\n\n\tthe  unbelievable x+=y/2...",
      /*parse_special=*/false);
  digest.Add(cut.ok() ? absl::StrJoin(*cut, " ") : cut.status().message());
  return digest.Hex();
}

uint64_t BytesOf(const model::Weights* weights) {
  uint64_t bytes = 0;
  for (const std::string& file : weights == nullptr ? std::vector<std::string>() : weights->files()) {
    std::error_code error;
    const auto size = std::filesystem::file_size(file, error);
    if (!error) bytes += size;
  }
  return bytes;
}

}  // namespace

std::map<std::string, std::string> IdentityOf(const std::string& path, const model::Weights* weights,
                                              const model::ModelConfig& config, absl::string_view chat_template,
                                              const model::Tokenizer& tokenizer, const link::LinkProfile& profile) {
  std::filesystem::path model(path);
  if (!model.has_filename()) model = model.parent_path();
  Digest chat;
  chat.Add(chat_template);
  std::map<std::string, std::string> identity = {
      {"model", absl::StrCat(absl::CHexEscape(model.filename().string()), " of ", BytesOf(weights), " bytes")},
      {"configuration", config.Canonical()},
      {"tokenizer", DigestOf(tokenizer)},
      {"cut", CutDigest(tokenizer)},
      {"chat_template", chat.Hex()},
      {"document_template", profile.document_template},
      {"place", profile.place == link::LinkProfile::Place::kAfterSystem ? "after-system" : "in-user"},
      {"marks", absl::StrCat(Number(profile.mem_start), " ", Number(profile.mem_end))}};
  if (weights != nullptr) identity["weights"] = DigestOf(*weights);
  return identity;
}

}  // namespace kvlink::train
