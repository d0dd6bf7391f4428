// The digest covers the elements as f32, so that the same wrapper in another file, or as BF16, names the same
// encodings.
#include "worker/encode/wrapper.h"

#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/digest.h"
#include "worker/link/link_embeddings.h"

namespace kvlink::encode {
namespace {

constexpr absl::string_view kWrapperMagic = "KVLINKWR";
constexpr uint32_t kWrapperVersion = 1;

template <typename T>
void AppendNumber(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// docs/formats.md "Wrapper".
std::string DigestOf(const Wrapper& wrapper) {
  std::string record(kWrapperMagic);
  AppendNumber<uint32_t>(kWrapperVersion, &record);
  AppendNumber<uint64_t>(static_cast<uint64_t>(wrapper.header), &record);
  AppendNumber<uint64_t>(static_cast<uint64_t>(wrapper.trailer), &record);
  AppendNumber<uint64_t>(wrapper.embeddings.size() / static_cast<uint64_t>(wrapper.tokens()), &record);
  Sha256 hash;
  hash.Update(record);
  hash.Update(absl::string_view(reinterpret_cast<const char*>(wrapper.embeddings.data()),
                                wrapper.embeddings.size() * sizeof(float)));
  const std::array<uint8_t, 32> digest = hash.Finish();
  return std::string(digest.begin(), digest.end());
}

}  // namespace

Wrapper MakeWrapper(int64_t header, int64_t trailer, std::vector<float> embeddings) {
  Wrapper wrapper{header, trailer, std::move(embeddings), {}};
  wrapper.digest = DigestOf(wrapper);
  return wrapper;
}

absl::StatusOr<Wrapper> LoadWrapper(const link::LinkProfile& profile, const model::ModelConfig& config) {
  if (!profile.wrapper) return Wrapper();
  const link::WrapperFile& from = *profile.wrapper;
  if (from.header + from.trailer >= config.context) {
    return absl::InvalidArgumentError(absl::StrCat("link profile '", profile.name, "': 'wrapper' has ",
                                                   from.header + from.trailer, " tokens, the model's context is ",
                                                   config.context, "; the profile belongs to another model"));
  }
  KVLINK_ASSIGN_OR_RETURN(
      std::vector<float> embeddings,
      link::ReadEmbeddings(profile, {"wrapper.header", from.file, "wrapper_header", from.header, config.hidden}));
  KVLINK_ASSIGN_OR_RETURN(
      const std::vector<float> trailer,
      link::ReadEmbeddings(profile, {"wrapper.trailer", from.file, "wrapper_trailer", from.trailer, config.hidden}));
  embeddings.insert(embeddings.end(), trailer.begin(), trailer.end());
  return MakeWrapper(from.header, from.trailer, std::move(embeddings));
}

std::string WrapperName(absl::string_view digest) { return digest.empty() ? "none" : absl::BytesToHexString(digest); }

}  // namespace kvlink::encode
