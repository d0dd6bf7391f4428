// Reads the matrix of link embeddings, apart from profile.cc so that profiles do not need tensor files.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "worker/files/mapped_file.h"
#include "worker/files/safetensors.h"
#include "worker/files/tensor_format.h"
#include "worker/link/profile.h"

namespace kvlink::link {

absl::StatusOr<std::vector<float>> LoadLinkEmbeddings(const LinkProfile& profile, const model::ModelConfig& config) {
  if (profile.link_embeddings_file.empty()) return std::vector<float>();
  const std::string& path = profile.link_embeddings_file;
  KVLINK_ASSIGN_OR_RETURN(const auto file, model::MappedFile::Open(path));
  const auto tensors = model::ParseSafetensors(file->bytes());
  if (!tensors.ok()) return Annotate(tensors.status(), path);
  const model::SourceTensor* found = nullptr;
  for (const model::SourceTensor& tensor : *tensors) {
    if (tensor.name == "link_embeddings") found = &tensor;
  }
  if (found == nullptr) return absl::InvalidArgumentError(absl::StrCat(path, ": no tensor 'link_embeddings'"));
  const std::vector<int64_t> wanted = {profile.slots * profile.links_per_document, config.hidden};
  if (found->shape != wanted) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensor 'link_embeddings' is [",
                                                   absl::StrJoin(found->shape, ", "), "], but profile '", profile.name,
                                                   "' and this model need [", absl::StrJoin(wanted, ", "), "]"));
  }
  const model::TensorFormat* format = model::FindTensorFormat(found->type);
  if (format == nullptr || format->block_elements != 1) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": link embeddings of type ", found->type, "; use F32, F16 or BF16"));
  }
  std::vector<float> embeddings(wanted[0] * wanted[1]);
  format->expand(found->bytes.data(), static_cast<int64_t>(embeddings.size()), embeddings.data());
  return embeddings;
}

}  // namespace kvlink::link
