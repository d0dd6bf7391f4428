// Apart from profile.cc so that profiles do not need tensor files.
#include "worker/link/link_embeddings.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "worker/files/mapped_file.h"
#include "worker/files/safetensors.h"
#include "worker/files/tensor_format.h"

namespace kvlink::link {
namespace {

absl::StatusOr<std::vector<float>> Read(const EmbeddingTensor& wanted) {
  KVLINK_ASSIGN_OR_RETURN(const auto file, model::MappedFile::Open(wanted.file));
  const auto tensors = model::ParseSafetensors(file->bytes());
  if (!tensors.ok()) return Annotate(tensors.status(), wanted.file);
  const std::vector<int64_t> shape = {wanted.rows, wanted.hidden};
  const std::string needed = absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
  const auto found = std::find_if(tensors->begin(), tensors->end(),
                                  [&](const model::SourceTensor& tensor) { return tensor.name == wanted.name; });
  if (found == tensors->end()) {
    if (wanted.rows == 0) return std::vector<float>();
    return absl::InvalidArgumentError(
        absl::StrCat(wanted.file, ": no tensor '", wanted.name, "'; one of shape ", needed, " is needed"));
  }
  if (found->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        wanted.file, ": tensor '", wanted.name, "' is [", absl::StrJoin(found->shape, ", "),
        "], but the profile and this model need ", needed,
        found->shape.size() == 2 && found->shape[0] == wanted.rows ? "; the profile belongs to another model" : ""));
  }
  const model::TensorFormat* const format = model::FindTensorFormat(found->type);
  if (format == nullptr || format->block_elements != 1) {
    return absl::UnimplementedError(absl::StrCat(wanted.file, ": tensor '", wanted.name, "' has type ", found->type,
                                                 "; F32, F16 or BF16 is needed"));
  }
  std::vector<float> embeddings(wanted.rows * wanted.hidden);
  // A header or trailer without tokens has no memory either.
  if (!embeddings.empty()) {
    format->expand(found->bytes.data(), static_cast<int64_t>(embeddings.size()), embeddings.data());
  }
  const auto bad =
      std::find_if(embeddings.begin(), embeddings.end(), [](float element) { return !std::isfinite(element); });
  if (bad != embeddings.end()) {
    return absl::InvalidArgumentError(absl::StrCat(wanted.file, ": tensor '", wanted.name, "' has ", *bad, " in row ",
                                                   (bad - embeddings.begin()) / wanted.hidden));
  }
  return embeddings;
}

}  // namespace

absl::StatusOr<std::vector<float>> ReadEmbeddings(const LinkProfile& profile, const EmbeddingTensor& tensor) {
  absl::StatusOr<std::vector<float>> embeddings = Read(tensor);
  if (embeddings.ok()) return embeddings;
  return Annotate(embeddings.status(), absl::StrCat("link profile '", profile.name, "': '", tensor.field, "'"));
}

absl::StatusOr<std::vector<float>> LoadLinkEmbeddings(const LinkProfile& profile, const model::ModelConfig& config) {
  if (profile.link_embeddings_file.empty()) return std::vector<float>();
  return ReadEmbeddings(profile, {.field = "link_embeddings_file",
                                  .file = profile.link_embeddings_file,
                                  .name = "link_embeddings",
                                  .rows = profile.slots * profile.links_per_document,
                                  .hidden = config.hidden});
}

}  // namespace kvlink::link
