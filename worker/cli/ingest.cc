// kvlink ingest: documents into the store. ^C ends reading, so that what is under way is finished and counted.
#include "worker/ingest/ingest.h"

#include <atomic>
#include <csignal>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli/args.h"
#include "base/cli/progress.h"
#include "base/cli/standard_streams.h"
#include "base/status.h"
#include "store/cli/place.h"
#include "worker/cli/commands.h"
#include "worker/cli/open.h"
#include "worker/encode/encoder.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kSummary =
    "Encodes documents once and keeps their keys and values in the store. INPUT is a JSON lines file\n"
    "({\"id\": ..., \"title\": ..., \"text\": ...}), a text file, a directory of these, or - for JSON lines\n"
    "on standard input; gzip and Zstandard are read as they are.\n\n"
    "Documents that are complete already are skipped: end it at any time (^C finishes what is under way)\n"
    "and run it again. The exit status is 1 if any document failed, each of which is named on standard\n"
    "error, and 7 if the store had no room to keep all of them.\n\n"
    "With --secret-file encodings are named by HMAC-SHA256 under the secret in FILE (one newline at its\n"
    "end does not count), so that kvlink ask finds them under that secret only. Nothing is encrypted:\n"
    "whoever may read the files of the store can read what is in it.";

struct Flags {
  StoreFlags store;
  ModelFlags model;
  std::string format = "auto";
  std::string id;
  std::string title;
  int64_t generation = 0;
  int64_t batch_tokens = 2048;
  int64_t document_bytes = int64_t{16} << 20;
  int64_t outage = 60;
  bool stop_at_first_failure = false;
  bool quiet = false;
};

// The source whose reading ^C ends; raised from the handler, which writes to an eventfd and does nothing else.
std::atomic<const ingest::DocumentSource*> interrupted_source{nullptr};
volatile std::sig_atomic_t interrupted = 0;

// For as long as the object: the first ^C ends reading, the second one the process.
class StopOnInterrupt {
 public:
  explicit StopOnInterrupt(const ingest::DocumentSource* source) {
    interrupted_source = source;
    struct sigaction action = {};
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    action.sa_handler = [](int) {
      interrupted = 1;
      if (const ingest::DocumentSource* const reading = interrupted_source) reading->Stop();
    };
    sigaction(SIGINT, &action, nullptr);
  }
  ~StopOnInterrupt() {
    std::signal(SIGINT, SIG_DFL);
    interrupted_source = nullptr;
  }
  StopOnInterrupt(const StopOnInterrupt&) = delete;
  StopOnInterrupt& operator=(const StopOnInterrupt&) = delete;
};

absl::Status Parse(absl::Span<char* const> args, Arguments& arguments, Flags& flags) {
  AddStoreFlags(arguments, flags.store);
  AddModelFlags(arguments, flags.model);
  arguments.Choice(
      "format", {"auto", "jsonl", "text"},
      "What the inputs are; auto: .jsonl and .ndjson are JSON lines, others text, and .json and .csv are asked about.",
      &flags.format);
  arguments.Text("id", "ID", "Id of the document, for one text.", &flags.id);
  arguments.Text("title", "TITLE", "Title of the document, for one text.", &flags.title);
  arguments.Integer(
      "generation", "N",
      "Version of the catalog entries; a lower one never replaces a higher. 0: the store's time now in microseconds.",
      0, INT64_MAX, &flags.generation);
  arguments.Integer("batch-tokens", "N", "Most tokens of one forward pass.", 1, 1 << 20, &flags.batch_tokens);
  arguments.Bytes("document-bytes", "Most bytes of one document.", &flags.document_bytes);
  arguments.Integer("outage", "SECONDS", "How long to wait for a node that went away.", 0, 86400, &flags.outage);
  arguments.Flag("stop-at-first-failure", "End at the first document that fails.", &flags.stop_at_first_failure);
  arguments.Flag("quiet", "Print failures only.", &flags.quiet);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (flags.document_bytes < 1 || flags.document_bytes > (int64_t{1} << 30)) {
    return absl::InvalidArgumentError("option --document-bytes: between 1 and 1G");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ingest::DocumentSource>> OpenSource(const Arguments& arguments, const Flags& flags) {
  using Format = ingest::SourceOptions::Format;
  ingest::SourceOptions options;
  options.format = flags.format == "jsonl"  ? Format::kJsonLines
                   : flags.format == "text" ? Format::kText
                                            : Format::kAuto;
  options.id = flags.id;
  options.title = flags.title;
  options.max_document_bytes = flags.document_bytes;
  return ingest::DocumentSource::Open(arguments.operands(), options);
}

// "a.jsonl:3: document 'x': ..." on one line of standard error.
void PrintFailure(absl::string_view where, absl::string_view id, const absl::Status& status) {
  const std::string place =
      id.empty() ? std::string(where) : absl::StrCat(where, ": document '", id.substr(0, 200), "'");
  std::fprintf(stderr, "kvlink ingest: %s\n", OneLine(place, status.message()).c_str());
}

void PrintSummary(const ingest::IngestCounts& counts, absl::Duration elapsed, int64_t ignored_files) {
  const double seconds = std::max(1e-3, absl::ToDoubleSeconds(elapsed));
  const int64_t unfinished = counts.documents - counts.added - counts.skipped - counts.failed;
  absl::PrintF("%d documents: %d added, %d complete already, %d failed", counts.documents, counts.added, counts.skipped,
               counts.failed);
  if (unfinished > 0) absl::PrintF(", %d not finished", unfinished);
  absl::PrintF("; %d shared an encoding", counts.shared);
  if (counts.replaced > 0) absl::PrintF(", %d replaced an earlier version", counts.replaced);
  absl::PrintF("\n%d tokens encoded in %.1f s (%.0f tokens/s), %s written\n", counts.tokens, seconds,
               static_cast<double>(counts.tokens) / seconds, FormatBytes(static_cast<double>(counts.bytes)));
  if (ignored_files > 0) {
    absl::PrintF("%d other files were left out (not .txt, .md, .jsonl or .ndjson)\n", ignored_files);
  }
}

// The command's status after the run.
absl::Status Outcome(const absl::Status& run, const ingest::IngestCounts& counts, const Flags& flags, bool served) {
  const int64_t complete = counts.added + counts.skipped;
  if (!run.ok()) {
    return Annotate(absl::Status(run.code(), absl::StrCat(run.message(), "; ", complete,
                                                          " documents are complete, run it again to go on")),
                    PlaceName(flags.store));
  }
  if (interrupted != 0) {
    return absl::CancelledError(
        absl::StrCat("interrupted; ", complete, " documents are complete, run it again to go on"));
  }
  if (counts.evicted > 0) {
    const std::string capacity =
        served ? "more than its nodes have for it; raise their --capacity, or the namespace's (kvlink namespace)"
        : flags.store.capacity == 0
            ? "more than the store's capacity, or its disk, allows; raise --capacity, or free space on the disk"
            : absl::StrCat("the capacity is ", FormatBytes(static_cast<double>(flags.store.capacity)),
                           "; raise --capacity, or free space on the disk");
    return absl::ResourceExhaustedError(absl::StrCat(counts.evicted, " encodings were evicted again: the corpus needs ",
                                                     FormatBytes(static_cast<double>(counts.corpus_bytes)), ", ",
                                                     capacity));
  }
  if (counts.failed == 0) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat(counts.failed, " of ", counts.documents, " documents failed; correct them and run it again"));
}

}  // namespace

absl::Status RunIngest(absl::Span<char* const> args) {
  Flags flags;
  Arguments arguments("ingest", "INPUT...", kSummary);
  KVLINK_RETURN_IF_ERROR(Parse(args, arguments, flags));
  if (arguments.help_wanted()) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(const auto source, OpenSource(arguments, flags));
  encode::EncoderOptions encoder_options;
  KVLINK_ASSIGN_OR_RETURN(encoder_options.codec, ParseCodec(flags.store.codec));
  encoder_options.batch_tokens = flags.batch_tokens;
  KVLINK_ASSIGN_OR_RETURN(encoder_options.tenant_secret, TenantSecret(arguments, flags.store));
  KVLINK_ASSIGN_OR_RETURN(const PlaceKind kind, PlaceOf(flags.store));
  KVLINK_ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(flags.model));
  KVLINK_ASSIGN_OR_RETURN(const OpenedStore place, OpenStore(flags.store, StoreUse::kCreate));
  if (place.created && !flags.quiet) absl::PrintF("created a new store in %s\n", Printable(flags.store.store));
  KVLINK_ASSIGN_OR_RETURN(const auto encoder,
                          encode::Encoder::Create(opened.model.get(), opened.fingerprint, encoder_options));

  const ingest::IngestInput input{.source = source.get(),
                                  .tokenizer = opened.tokenizer.get(),
                                  .profile = &opened.profile,
                                  .context = opened.model->config().context,
                                  .fingerprint = opened.fingerprint,
                                  .encoder = encoder.get(),
                                  .store = place.store.get()};
  ingest::IngestOptions options;
  options.ns = flags.store.ns;
  options.generation = static_cast<uint64_t>(flags.generation);
  options.stop_at_first_failure = flags.stop_at_first_failure;
  options.outage = absl::Seconds(flags.outage);
  ProgressBar bar;
  ingest::IngestCallbacks callbacks;
  int64_t named = 0;
  callbacks.failed = [&](absl::string_view where, absl::string_view id, const absl::Status& status) {
    constexpr int64_t kMaxNamed = 1000;
    if (++named > kMaxNamed) return;
    bar.Clear();
    PrintFailure(where, id, status);
    if (named == kMaxNamed) std::fprintf(stderr, "kvlink ingest: further failures are counted, not listed\n");
  };
  callbacks.progress = [&](const ingest::IngestCounts& counts) {
    const double total = static_cast<double>(source->total_bytes());
    const double seconds = std::max(1e-3, absl::ToDoubleSeconds(bar.elapsed()));
    if (flags.quiet) return;
    bar.Update(total > 0 ? static_cast<double>(counts.position) / total : -1,
               absl::StrFormat("%d documents  %.0f tokens/s", counts.added + counts.skipped,
                               static_cast<double>(counts.tokens) / seconds));
  };
  ingest::IngestCounts counts;
  absl::Status status;
  {
    const StopOnInterrupt stop(source.get());
    status = ingest::Ingest(input, options, callbacks, &counts);
  }
  bar.Clear();
  if (!flags.quiet) PrintSummary(counts, bar.elapsed(), source->ignored_files());
  return Outcome(status, counts, flags, kind != PlaceKind::kDirectory);
}

}  // namespace kvlink::cli
