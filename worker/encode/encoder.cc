#include "worker/encode/encoder.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/device/host.h"
#include "kernels/device/transfer.h"

namespace kvlink::encode {
namespace {

int64_t PagesFor(int64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

// Rows [begin, end) of one document in one forward pass.
struct Piece {
  size_t document = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

class EncoderImpl final : public Encoder {
 public:
  EncoderImpl(const model::Model* model, const Fingerprint& fingerprint, EncoderOptions options)
      : model_(model),
        fingerprint_(fingerprint),
        options_(std::move(options)),
        context_(model->NewContext()),
        stream_(model->backend()->NewStream()) {}

  const EncoderOptions& options() const override { return options_; }

  Identity IdentityOf(absl::Span<const int32_t> tokens) const override {
    return ComputeIdentity({.model = fingerprint_, .context_digest = options_.wrapper.digest, .tokens = tokens},
                           options_.tenant_secret);
  }

  absl::StatusOr<std::vector<Encoded>> Encode(absl::Span<const absl::Span<const int32_t>> documents,
                                              const Check& check) override {
    KVLINK_RETURN_IF_ERROR(CheckTokens(documents));
    std::vector<std::vector<int32_t>> inside;
    const std::vector<absl::Span<const int32_t>> rows = Wrap(documents, &inside);
    int64_t longest = 0;
    for (const auto& tokens : rows) longest = std::max<int64_t>(longest, tokens.size());
    KVLINK_RETURN_IF_ERROR(EnsurePages(PagesFor(longest)));
    std::vector<Encoded> encoded(documents.size());
    std::vector<std::unique_ptr<model::KvSequence>> sequences(documents.size());
    for (Piece next; next.document < rows.size();) {
      const std::vector<Piece> pass = NextPass(rows, next);
      KVLINK_RETURN_IF_ERROR(Forward(rows, pass, check, sequences));
      for (const Piece& piece : pass) {
        if (piece.end < static_cast<int64_t>(rows[piece.document].size())) continue;
        KVLINK_ASSIGN_OR_RETURN(encoded[piece.document], Pack(documents[piece.document], *sequences[piece.document]));
        sequences[piece.document].reset();
      }
    }
    return encoded;
  }

  absl::Status Prepare() {
    KVLINK_RETURN_IF_ERROR(UploadWrapper());
    // Slabs are checksummed and stored from host memory, so on a device they are transferred first.
    if (model_->backend()->device().type != kernels::DeviceType::kCpu) {
      KVLINK_ASSIGN_OR_RETURN(transfer_, kernels::Transfer::Create(model_->backend()));
    }
    return EnsurePages(1);
  }

 private:
  absl::Status UploadWrapper() {
    const std::vector<float>& rows = options_.wrapper.embeddings;
    const int64_t hidden = model_->config().hidden;
    const int64_t elements = static_cast<int64_t>(rows.size());
    if (elements != options_.wrapper.tokens() * hidden) {
      return absl::InvalidArgumentError(absl::StrCat("a wrapper of ", options_.wrapper.tokens(), " tokens has ",
                                                     elements, " elements; the model is ", hidden, " wide"));
    }
    if (rows.empty()) return absl::OkStatus();
    const int64_t bytes = elements * static_cast<int64_t>(sizeof(float));
    KVLINK_ASSIGN_OR_RETURN(wrapper_rows_, model_->backend()->Allocate(bytes));
    KVLINK_RETURN_IF_ERROR(model_->backend()->CopyIn(*stream_, rows.data(), wrapper_rows_.data(), bytes));
    return stream_->Synchronize();
  }

  // The tokens of each encoding: ids from the end of the vocabulary on are rows of the wrapper. `inside`: holds those
  // that differ from the documents'.
  std::vector<absl::Span<const int32_t>> Wrap(absl::Span<const absl::Span<const int32_t>> documents,
                                              std::vector<std::vector<int32_t>>* inside) const {
    std::vector<absl::Span<const int32_t>> all(documents.begin(), documents.end());
    const Wrapper& wrapper = options_.wrapper;
    if (wrapper.tokens() == 0) return all;
    inside->resize(documents.size());
    for (size_t i = 0; i < documents.size(); ++i) {
      std::vector<int32_t>& tokens = (*inside)[i];
      tokens.resize(documents[i].size() + wrapper.tokens());
      const auto own = std::next(tokens.begin(), wrapper.header);
      const auto trailer = std::copy(documents[i].begin(), documents[i].end(), own);
      const auto first = static_cast<int32_t>(model_->config().vocab);
      std::iota(tokens.begin(), own, first);
      std::iota(trailer, tokens.end(), first + static_cast<int32_t>(wrapper.header));
      all[i] = tokens;
    }
    return all;
  }

  // Provides pages for a batch, and for one document of `pages` pages.
  absl::Status EnsurePages(int64_t pages) {
    // A batch of whole pages, plus one for a document that began in the previous pass.
    const int64_t wanted = std::max(pages, PagesFor(options_.batch_tokens)) + 1;
    if (pages_ != nullptr && pages_->total_pages() >= wanted) return absl::OkStatus();
    pages_.reset();
    const kernels::Dtype dtype =
        options_.codec == Codec::kRawF32 ? kernels::Dtype::kF32 : model_->backend()->compute_dtype();
    auto created = model::KvPages::Create(model_->backend(), model_->config(), dtype, wanted);
    if (!created.ok()) {
      return Annotate(created.status(),
                      absl::StrCat("private KV to encode documents of ", wanted * kBlockTokens, " tokens"));
    }
    pages_ = *std::move(created);
    return absl::OkStatus();
  }

  absl::Status CheckTokens(absl::Span<const absl::Span<const int32_t>> documents) const {
    const int64_t context = model_->config().context;
    const int64_t vocab = model_->config().vocab;
    const int64_t around = options_.wrapper.tokens();
    for (size_t i = 0; i < documents.size(); ++i) {
      if (documents[i].empty()) return absl::InvalidArgumentError(absl::StrCat("document ", i, " is empty"));
      for (const int32_t token : documents[i]) {
        if (token >= 0 && token < vocab) continue;
        return absl::InvalidArgumentError(
            absl::StrCat("document ", i, ": token ", token, " is outside the vocabulary of ", vocab));
      }
      if (static_cast<int64_t>(documents[i].size()) + around <= context) continue;
      return absl::InvalidArgumentError(absl::StrCat("document ", i, " has ", documents[i].size(), " tokens",
                                                     around > 0 ? absl::StrCat(" and ", around, " of its wrapper") : "",
                                                     ", more than the model's context of ", context));
    }
    return absl::OkStatus();
  }

  // Returns the pieces of the next forward pass and advances `next` past them. A document is cut only at multiples of
  // batch_tokens from its own beginning, so its cuts do not depend on its neighbours.
  std::vector<Piece> NextPass(absl::Span<const absl::Span<const int32_t>> documents, Piece& next) const {
    std::vector<Piece> pass;
    int64_t rows = options_.batch_tokens;
    int64_t pages = pages_->total_pages();
    while (next.document < documents.size()) {
      const int64_t tokens = static_cast<int64_t>(documents[next.document].size());
      const int64_t end = std::min(tokens, next.begin + options_.batch_tokens);
      const int64_t need = PagesFor(end);
      if (end - next.begin > rows || need > pages) break;
      pass.push_back({next.document, next.begin, end});
      rows -= end - next.begin;
      pages -= need;
      next = end == tokens ? Piece{next.document + 1} : Piece{next.document, end};
      if (next.begin > 0) break;  // its next rows read these, so they need another pass
    }
    return pass;
  }

  absl::Status Forward(absl::Span<const absl::Span<const int32_t>> documents, absl::Span<const Piece> pass,
                       const Check& check, std::vector<std::unique_ptr<model::KvSequence>>& sequences) {
    model::BatchArrays arrays;
    for (const Piece& piece : pass) {
      const auto rows = documents[piece.document].subspan(piece.begin, piece.end - piece.begin);
      std::vector<int64_t> positions(rows.size());
      std::iota(positions.begin(), positions.end(), piece.begin);
      std::unique_ptr<model::KvSequence>& sequence = sequences[piece.document];
      if (sequence == nullptr) sequence = std::make_unique<model::KvSequence>(pages_.get());
      KVLINK_ASSIGN_OR_RETURN(const std::vector<int64_t> slots, sequence->Append(positions));
      const int64_t first = arrays.AddRows(rows, positions, slots);
      arrays.AddPrivate(*sequence, first, static_cast<int64_t>(rows.size()));
    }
    model::ForwardBatch batch = arrays.Batch(pages_.get());
    if (const int64_t around = options_.wrapper.tokens(); around > 0) {
      batch.extra_embeddings = kernels::Tensor::Dense(wrapper_rows_.data(), kernels::Dtype::kF32,
                                                      model_->backend()->device(), {around, model_->config().hidden});
    }
    if (check) batch.before_layer = [&](int64_t) { return check(); };
    return model_->Forward(*context_, batch).status();
  }

  absl::StatusOr<Encoded> Pack(absl::Span<const int32_t> tokens, const model::KvSequence& sequence) {
    const model::ModelConfig& config = model_->config();
    const SlabShape shape{
        .codec = options_.codec, .kv_heads = config.kv_heads, .head_dim = config.head_dim, .tokens = sequence.tokens()};
    KVLINK_RETURN_IF_ERROR(shape.Validate());
    Encoded encoded;
    encoded.manifest = Manifest::Uniform(shape, config.layers, model_->rope().rotary_dim);
    encoded.manifest.identity = IdentityOf(tokens);
    encoded.manifest.model = fingerprint_;
    encoded.manifest.build = KVLINK_BUILD;
    KVLINK_ASSIGN_OR_RETURN(encoded.bytes, kernels::AllocateHost(encoded.manifest.bytes()));
    auto* const data = static_cast<std::byte*>(encoded.bytes.data());
    for (const LayerManifest& layer : encoded.manifest.layers) {
      encoded.slabs.emplace_back(data + layer.offset, layer.length);
    }
    const absl::Status packed = PackLayers(shape, sequence, encoded);
    // Wait even after an error: a layer still being packed reads pages that are about to be released.
    const absl::Status finished = stream_->Synchronize();
    KVLINK_RETURN_IF_ERROR(packed);
    KVLINK_RETURN_IF_ERROR(finished);
    encoded.manifest.Seal();
    return encoded;
  }

  // While one layer is packed, the previous one leaves the device and is checksummed.
  absl::Status PackLayers(const SlabShape& shape, const model::KvSequence& sequence, Encoded& encoded) {
    const int64_t layers = model_->config().layers;
    KVLINK_RETURN_IF_ERROR(EnsureSlabs(shape.slab_bytes()));
    for (int64_t layer = 0; layer <= layers; ++layer) {
      KVLINK_RETURN_IF_ERROR(stream_->Synchronize());
      if (layer < layers) KVLINK_RETURN_IF_ERROR(PackLayer(layer, shape, sequence, Slab(layer, encoded)));
      if (layer == 0) continue;
      const absl::Span<const std::byte> done = encoded.slabs[layer - 1];
      if (transfer_ != nullptr) {
        KVLINK_RETURN_IF_ERROR(transfer_->ToHost(Slab(layer - 1, encoded), const_cast<std::byte*>(done.data()),
                                                 static_cast<int64_t>(done.size())));
      }
      KVLINK_RETURN_IF_ERROR(encoded.manifest.ChecksumLayer(layer - 1, done));
    }
    return absl::OkStatus();
  }

  absl::Status PackLayer(int64_t layer, const SlabShape& shape, const model::KvSequence& sequence, std::byte* slab) {
    kernels::Backend& backend = *model_->backend();
    return backend.Pack(
        *stream_, {.shape = shape,
                   .pages = pages_->layer(layer),
                   .block_table = sequence.block_table().data(),
                   .rope = &model_->rope(),
                   .slab = kernels::Tensor::Dense(slab, kernels::Dtype::kU8, backend.device(), {shape.slab_bytes()})});
  }

  // Where a layer is packed: alternately into one of two slabs on a device, otherwise into its final place.
  std::byte* Slab(int64_t layer, const Encoded& encoded) const {
    if (transfer_ == nullptr) return const_cast<std::byte*>(encoded.slabs[layer].data());
    return static_cast<std::byte*>(slabs_.data()) + layer % 2 * (slabs_.bytes() / 2);
  }

  absl::Status EnsureSlabs(int64_t bytes) {
    if (transfer_ == nullptr || slabs_.bytes() >= 2 * bytes) return absl::OkStatus();
    slabs_.reset();
    KVLINK_ASSIGN_OR_RETURN(slabs_, model_->backend()->Allocate(2 * bytes));
    return absl::OkStatus();
  }

  const model::Model* const model_;
  const Fingerprint fingerprint_;
  const EncoderOptions options_;
  const std::unique_ptr<model::ForwardContext> context_;
  const std::unique_ptr<kernels::Stream> stream_;
  kernels::Buffer wrapper_rows_;  // [wrapper tokens, hidden]
  std::unique_ptr<model::KvPages> pages_;
  // On a device: memory to pack into, and the transfer to the host.
  kernels::Buffer slabs_;
  std::unique_ptr<kernels::Transfer> transfer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Encoder>> Encoder::Create(const model::Model* model, const Fingerprint& fingerprint,
                                                         const EncoderOptions& options) {
  if (options.batch_tokens < 1 || options.batch_tokens > (int64_t{1} << 20)) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch of ", options.batch_tokens, " tokens; it must be 1 to 1048576"));
  }
  auto encoder = std::make_unique<EncoderImpl>(model, fingerprint, options);
  KVLINK_RETURN_IF_ERROR(encoder->Prepare());
  return encoder;
}

}  // namespace kvlink::encode
