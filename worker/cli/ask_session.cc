#include "worker/cli/ask_session.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::cli {
namespace {

// What a context digest says of an encoding.
std::string FormOf(absl::string_view context_digest) {
  return context_digest.empty() ? "without a wrapper"
                                : absl::StrCat("inside wrapper ", encode::WrapperName(context_digest).substr(0, 16));
}

}  // namespace

ScratchStore::~ScratchStore() {
  std::error_code error;
  if (!path_.empty()) std::filesystem::remove_all(path_, error);
}

absl::Status ScratchStore::Make() {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::temp_directory_path(error);
  std::string path = (folder / "kvlink-store-XXXXXX").string();
  if (error || mkdtemp(path.data()) == nullptr) {
    return absl::UnavailableError(absl::StrCat(path, ": cannot create a temporary directory (", std::strerror(errno),
                                               "); name a store with --store"));
  }
  path_ = std::move(path);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<AskSession>> AskSession::Open(const AskOptions& options) {
  std::unique_ptr<AskSession> session(new AskSession());
  session->options_ = options;
  // Cheap refusals come before loading the model. A temporary store comes after it: while a model is loaded, ^C ends
  // the process, which would leave the store behind. From then on it is caught.
  KVLINK_ASSIGN_OR_RETURN(const bool named, session->OpenNamed());
  KVLINK_ASSIGN_OR_RETURN(session->opened_, OpenModel(options.model));
  session->caught_.emplace();
  if (!named) KVLINK_RETURN_IF_ERROR(session->OpenScratch());
  OpenedModel& opened = session->opened_;
  const model::ModelConfig& config = opened.model->config();
  KVLINK_ASSIGN_OR_RETURN(session->chat_, link::OpenChat(opened.weights->chat_template(), config, *opened.tokenizer));
  KVLINK_ASSIGN_OR_RETURN(infer::GeneratorOptions generator, GeneratorOptionsOf(opened, options.store, options.model,
                                                                                options.device, options.tenant_secret));
  // Over encodings alone little private KV is needed; everything else may fill the context (0).
  const link::Linker linker = session->linker();
  if (linker.base == link::Linker::kConcat && linker.head == 0 && linker.choice == link::Linker::kNone) {
    generator.private_tokens = std::min(options.private_tokens, config.context);
  }
  KVLINK_ASSIGN_OR_RETURN(session->generator_,
                          infer::Generator::Create(opened.model.get(), opened.fingerprint, session->store_.store.get(),
                                                   std::move(generator)));
  return session;
}

absl::StatusOr<bool> AskSession::OpenNamed() {
  if (options_.scratch_store) return false;
  auto opened = OpenStore(options_.store, StoreUse::kReading);
  KVLINK_ASSIGN_OR_RETURN(const PlaceKind kind, PlaceOf(options_.store));
  if (kind == PlaceKind::kDirectory && absl::IsNotFound(opened.status()) && !options_.store_needed) {
    note_ = absl::StrCat("no store at ", PlaceName(options_.store), ": new encodings will not be saved");
    return false;
  }
  KVLINK_RETURN_IF_ERROR(opened.status());
  store_ = *std::move(opened);
  if (store_.read_only)
    note_ = absl::StrCat(PlaceName(options_.store), " is read-only: new encodings will not be saved");
  return true;
}

absl::Status AskSession::OpenScratch() {
  KVLINK_RETURN_IF_ERROR(scratch_.Make());
  StoreFlags flags = options_.store;
  flags.store = scratch_.path();
  flags.cluster.cluster = flags.default_cluster;
  constexpr int64_t kMaxCapacity = int64_t{4} << 30;
  flags.capacity = flags.capacity == 0 ? kMaxCapacity : std::min(flags.capacity, kMaxCapacity);
  KVLINK_ASSIGN_OR_RETURN(store_, OpenStore(flags, StoreUse::kCreate));
  return absl::OkStatus();
}

absl::Status AskSession::AddStored(const encode::DocumentParts& wanted,
                                   std::vector<infer::RequestDocument>* documents) {
  if (Interrupted()) return absl::CancelledError("interrupted");
  const std::string& id = wanted.id;
  const auto entry = store_.store->GetDocument(options_.store.ns, id);
  if (absl::IsNotFound(entry.status())) {
    return absl::NotFoundError(absl::StrCat("document '", absl::Utf8SafeCEscape(id), "' is not in namespace '",
                                            options_.store.ns, "' of ", PlaceName(options_.store),
                                            "; kvlink inspect documents lists its documents"));
  }
  KVLINK_RETURN_IF_ERROR(entry.status());
  KVLINK_RETURN_IF_ERROR(encode::CheckEntry(id, *entry, opened_.fingerprint, options_.tenant_secret, opened_.wrapper));
  NoteForm(id, *entry);
  KVLINK_ASSIGN_OR_RETURN(std::vector<std::vector<int32_t>> parts, encode::PartsOf(*entry, wanted));
  for (std::vector<int32_t>& tokens : parts) documents->push_back({std::move(tokens)});
  return absl::OkStatus();
}

void AskSession::NoteForm(const std::string& id, const CatalogEntry& entry) {
  const bool reads = linker().base != link::Linker::kFull && (!linker().packet || opened_.profile.wrapper);
  // Nodes of an earlier build drop the digest, so the identity has the last word.
  if (!reads || entry.context_digest == context_digest() || entry.parts.empty() ||
      entry.parts[0].identity == generator_->IdentityOf(entry.parts[0].tokens, linker().packet)) {
    return;
  }
  if (other_form_) {
    ++other_form_->others;
  } else {
    other_form_ = {id, entry.context_digest, 0};
  }
}

absl::Status AskSession::AddFromFile(const std::string& path, std::vector<infer::RequestDocument>* documents) {
  KVLINK_ASSIGN_OR_RETURN(const auto source, ingest::DocumentSource::Open({path}, {}, &SignalInterrupt()));
  while (!Interrupted()) {
    const auto item = source->Next();
    if (!item) break;
    KVLINK_RETURN_IF_ERROR(Annotate(item->status, item->where));
    auto tokens = opened_.tokenizer->Encode(link::DocumentText(opened_.profile, item->title, item->text),
                                            /*parse_special=*/false);
    KVLINK_RETURN_IF_ERROR(Annotate(tokens.status(), item->where));
    if (tokens->empty()) return absl::InvalidArgumentError(absl::StrCat(item->where, ": the document is empty"));
    documents->push_back({*std::move(tokens)});
  }
  return Interrupted() ? absl::CancelledError("interrupted") : absl::OkStatus();
}

std::string AskSession::TakeFormNote() {
  const std::optional<OtherForm> form = std::exchange(other_form_, std::nullopt);
  if (!form) return "";
  return absl::StrCat(
      "document '", absl::Utf8SafeCEscape(form->id), "'",
      form->others > 0 ? absl::StrCat(" (and ", form->others, " more)") : "", " was ingested ",
      FormOf(form->context_digest), ", but the linker ", link::LinkerName(linker()), " reads encodings ",
      FormOf(context_digest()), "; what the store lacks is encoded now",
      linker().packet ? absl::StrCat(", and kvlink ingest --profile ", options_.model.profile, " stores it") : "");
}

std::unique_ptr<infer::Chat> AskSession::NewChat(link::Linker linker, std::vector<infer::RequestDocument> documents) {
  infer::ChatSettings settings;
  settings.linker = linker;
  settings.system = options_.system;
  settings.documents = std::move(documents);
  settings.max_tokens = options_.max_tokens;
  settings.sampling = options_.sampling;
  settings.options = chat_.options;
  return std::make_unique<infer::Chat>(generator_.get(), opened_.tokenizer.get(), chat_.chat_template.get(),
                                       std::move(settings));
}

absl::StatusOr<infer::Generator*> AskSession::AddGenerator(Codec codec) {
  infer::GeneratorOptions options = generator_->options();
  options.codec = codec;
  KVLINK_ASSIGN_OR_RETURN(auto generator, infer::Generator::Create(opened_.model.get(), opened_.fingerprint,
                                                                   store_.store.get(), std::move(options)));
  return more_generators_.emplace_back(std::move(generator)).get();
}

absl::Status AskSession::WarmUp() {
  infer::Request request;
  request.linker = link::Linker::kFull;
  const int64_t rows = std::min(generator_->options().prefill_chunk, generator_->options().private_tokens / 2);
  request.prompt.after.assign(std::max<int64_t>(rows, 1), 0);
  return generator_->Start(request).status();
}

}  // namespace kvlink::cli
