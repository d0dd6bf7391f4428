#include "worker/infer/generator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "kernels/device/device_checksums.h"
#include "worker/infer/engine_internal.h"

namespace kvlink::infer {
namespace {

// Each conversation may leave its last page partly empty.
constexpr int64_t kSparePages = 32;
constexpr int64_t kPageTokens = kBlockTokens;

absl::Status CheckLinkEmbeddings(const GeneratorOptions& options, const model::ModelConfig& config) {
  if (options.link_embeddings.empty()) return absl::OkStatus();
  const int64_t wanted = options.profile.slots * options.profile.links_per_document * config.hidden;
  const int64_t have = static_cast<int64_t>(options.link_embeddings.size());
  if (have == wanted) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "link embeddings of profile '", options.profile.name, "' have ", have, " elements; ", options.profile.slots,
      " slots of ", options.profile.links_per_document, " links, each ", config.hidden, " wide, need ", wanted));
}

absl::Status CheckWrapper(const GeneratorOptions& options, const model::ModelConfig& config) {
  const link::WrapperFile wanted = options.profile.wrapper.value_or(link::WrapperFile());
  const encode::Wrapper& have = options.wrapper;
  if (have.header == wanted.header && have.trailer == wanted.trailer &&
      static_cast<int64_t>(have.embeddings.size()) == have.tokens() * config.hidden) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("a wrapper of ", have.header, " + ", have.trailer, " tokens with ",
                                                 have.embeddings.size(), " elements; profile '", options.profile.name,
                                                 "' has ", wanted.header, " + ", wanted.trailer, " tokens, each ",
                                                 config.hidden, " wide"));
}

// A region of device memory, lent to the store.
absl::StatusOr<std::shared_ptr<store::DeviceBuffer>> OpenDeviceBuffer(store::Store* store, kernels::Backend* backend,
                                                                      int64_t bytes) {
  if (store == nullptr || bytes == 0) return absl::UnimplementedError("no device buffer was requested");
  KVLINK_ASSIGN_OR_RETURN(kernels::Buffer allocated, backend->AllocateForNetwork(bytes));
  const auto memory = std::make_shared<kernels::Buffer>(std::move(allocated));
  const auto checksums = std::make_shared<kernels::DeviceChecksums>(backend);
  auto* const data = static_cast<std::byte*>(memory->data());
  store::DeviceRegion region;
  region.device = backend->device().index;
  region.data = data;
  region.bytes = bytes;
  region.owner = memory;
  region.checksums = [checksums, data, bytes](absl::Span<const int64_t> offsets, absl::Span<const int64_t> lengths,
                                              absl::Span<uint64_t> out) {
    return checksums->Compute(data, bytes, offsets, lengths, out);
  };
  return store->OpenDeviceBuffer(region);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Generator>> Generator::Create(const model::Model* model, const Fingerprint& fingerprint,
                                                             store::Store* store, GeneratorOptions options) {
  const model::ModelConfig& config = model->config();
  KVLINK_RETURN_IF_ERROR(link::CheckProfile(options.profile, config));
  if (options.link_embeddings.empty()) {
    KVLINK_ASSIGN_OR_RETURN(options.link_embeddings, link::LoadLinkEmbeddings(options.profile, config));
  }
  KVLINK_RETURN_IF_ERROR(CheckLinkEmbeddings(options, config));
  if (options.wrapper.tokens() == 0) {
    KVLINK_ASSIGN_OR_RETURN(options.wrapper, encode::LoadWrapper(options.profile, config));
  }
  KVLINK_RETURN_IF_ERROR(CheckWrapper(options, config));
  if (options.prefill_chunk < 1 || options.private_tokens < 0) {
    return absl::InvalidArgumentError(
        "generator: prefill_chunk must be positive, and private_tokens must not be negative");
  }
  const bool on_host = model->backend()->device().type == kernels::DeviceType::kCpu;
  if (options.host_bytes < 0 || (options.host_bytes > 0 && on_host)) {
    return absl::InvalidArgumentError("generator: host_bytes is for devices only");
  }
  if (options.device_buffer_bytes < 0 || (options.device_buffer_bytes > 0 && on_host)) {
    return absl::InvalidArgumentError("generator: device_buffer_bytes is for devices only");
  }
  if (options.private_tokens == 0) options.private_tokens = config.context;
  auto device_buffer = OpenDeviceBuffer(store, model->backend(), options.device_buffer_bytes);
  std::unique_ptr<Generator> generator(
      new Generator(model, fingerprint, store, std::move(options), std::move(device_buffer)));
  const int64_t pages = (generator->options_.private_tokens + kPageTokens - 1) / kPageTokens + kSparePages;
  KVLINK_ASSIGN_OR_RETURN(generator->pages_,
                          model::KvPages::Create(model->backend(), config, model->backend()->compute_dtype(), pages));
  KVLINK_RETURN_IF_ERROR(generator->UploadLinkEmbeddings());
  if (store != nullptr && generator->options_.write_back_bytes > 0) {
    WriteBack::Options write_back;
    write_back.ns = generator->options_.ns;
    write_back.queue_bytes = generator->options_.write_back_bytes;
    generator->write_back_ = std::make_unique<WriteBack>(store, write_back);
  }
  return generator;
}

Generator::Generator(const model::Model* model, const Fingerprint& fingerprint, store::Store* store,
                     GeneratorOptions options, absl::StatusOr<std::shared_ptr<store::DeviceBuffer>> device_buffer)
    : model_(model),
      fingerprint_(fingerprint),
      options_(std::move(options)),
      device_buffer_(device_buffer.status()),
      pool_(store, model, fingerprint,
            {options_.ns, options_.codec, options_.resident_budget_bytes, options_.load_timeout, options_.host_bytes,
             device_buffer.ok() ? *std::move(device_buffer) : nullptr}) {}

Generator::~Generator() = default;

absl::Status Generator::UploadLinkEmbeddings() {
  if (options_.link_embeddings.empty()) return absl::OkStatus();
  kernels::Backend& backend = *model_->backend();
  const int64_t bytes = static_cast<int64_t>(options_.link_embeddings.size() * sizeof(float));
  KVLINK_ASSIGN_OR_RETURN(link_embeddings_, backend.Allocate(bytes));
  const std::unique_ptr<kernels::Stream> stream = backend.NewStream();
  KVLINK_RETURN_IF_ERROR(backend.CopyIn(*stream, options_.link_embeddings.data(), link_embeddings_.data(), bytes));
  return stream->Synchronize();
}

bool Generator::IsEnd(int32_t token) const {
  const std::vector<int32_t>& ends = model_->config().end_of_sequence;
  return std::find(ends.begin(), ends.end(), token) != ends.end();
}

Identity Generator::IdentityOf(absl::Span<const int32_t> tokens, bool packet, absl::string_view secret) const {
  return ComputeIdentity({fingerprint_, packet ? options_.wrapper.digest : "", tokens},
                         secret.empty() ? options_.tenant_secret : secret);
}

bool Generator::DrainWriteBack(absl::Time deadline) { return write_back_ == nullptr || write_back_->Drain(deadline); }

Generator::Stats Generator::stats() const {
  Stats stats;
  {
    MutexLock lock(&mutex_);
    stats = stats_;
  }
  stats.pool = pool_.stats();
  if (write_back_ != nullptr) stats.write_back = write_back_->stats();
  return stats;
}

absl::Status Generator::Rewind(Conversation& conversation, int64_t length) {
  if (length < conversation.stats_.prompt_tokens || length > conversation.length_) {
    return absl::InvalidArgumentError(absl::StrCat("generator: cannot rewind to ", length, " tokens; the prompt has ",
                                                   conversation.stats_.prompt_tokens, ", the conversation ",
                                                   conversation.length_));
  }
  // After the prompt, each position has one token of the sequence.
  conversation.Truncate(conversation.sequence_.tokens() - (conversation.length_ - length));
  conversation.length_ = length;
  return absl::OkStatus();
}

}  // namespace kvlink::infer
