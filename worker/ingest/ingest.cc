// One reader, one encoder (the calling thread) and several writers, with a bounded queue between each two. The first
// error that ends the run closes the queues, and everybody stops at the next one.
#include "worker/ingest/ingest.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "worker/ingest/bounded_queue.h"

namespace kvlink::ingest {
namespace {

// A tokenised document on its way to the catalog.
struct Document {
  std::string where;
  std::string id;
  std::string title;
  std::vector<int32_t> tokens;
  Identity identity;
  int64_t position = 0;
  bool encoded_here = false;  // this run encodes its text for it
  bool replaces = false;      // the catalog has something else under its id
};

// What a writer does at a time: stores the encoding (if it is not there yet) and catalogues the documents that have it.
struct WriteJob {
  Identity identity;
  std::optional<encode::Encoded> encoded;
  std::vector<Document> documents;
};

// Errors of one document; others mean that the next one would fail likewise.
bool EndsTheRun(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kDataLoss:
      return false;
    default:
      return true;
  }
}

class Run {
 public:
  Run(const IngestInput& input, const IngestOptions& options, const IngestCallbacks& callbacks)
      : input_(input),
        options_(options),
        callbacks_(callbacks),
        generation_(options.generation != 0 ? options.generation
                                            : static_cast<uint64_t>(absl::ToUnixMicros(absl::Now()))),
        batch_tokens_(input.encoder->options().batch_tokens),
        prepared_(8 * batch_tokens_, options.patience),
        jobs_(options.queued_bytes, options.patience) {}

  absl::Status Execute(IngestCounts* counts) {
    Thread reader("ingest-read", [this] { ReadAll(); });
    std::vector<Thread> writers;
    for (int i = 0; i < std::max(1, options_.writers); ++i)
      writers.emplace_back("ingest-write", [this] { WriteAll(); });
    EncodeAll();
    jobs_.Finish();
    for (Thread& writer : writers) writer.Join();
    prepared_.Close();
    input_.source->Stop();  // the reader may wait for input that nobody needs any more
    reader.Join();
    if (!Stopped()) CountEvicted();
    MutexLock lock(&mutex_);
    *counts = counts_;
    return status_;
  }

 private:
  // Reading.
  void ReadAll() {
    absl::flat_hash_map<std::string, std::string> seen;  // id, where
    while (!Stopped()) {
      std::optional<SourceItem> item = input_.source->Next();
      if (!item.has_value()) break;
      Count([](IngestCounts& counts) { ++counts.documents; });
      absl::StatusOr<Document> document = Prepare(*item, seen);
      if (!document.ok()) {
        Fail(item->where, item->id, item->position, document.status());
        continue;
      }
      const int64_t weight = static_cast<int64_t>(document->tokens.size());
      const absl::Status pushed = prepared_.Push(*std::move(document), weight);
      if (!pushed.ok()) {
        if (!absl::IsCancelled(pushed)) Stop(pushed);
        break;
      }
    }
    prepared_.Finish();
  }

  absl::StatusOr<Document> Prepare(const SourceItem& item, absl::flat_hash_map<std::string, std::string>& seen) const {
    KVLINK_RETURN_IF_ERROR(item.status);
    KVLINK_RETURN_IF_ERROR(store::ValidateName("document id", item.id));
    const auto [earlier, is_new] = seen.try_emplace(item.id, item.where);
    if (!is_new) {
      return absl::AlreadyExistsError(
          absl::StrCat("duplicate id; it was first used at ", earlier->second,
                       ", give each document its own (texts of a directory are named by their paths in it)"));
    }
    const auto is_space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
    if (std::all_of(item.text.begin(), item.text.end(), is_space)) {
      return absl::InvalidArgumentError("the document is empty; remove it or give it text");
    }
    Document document{.where = item.where, .id = item.id, .title = item.title, .position = item.position};
    KVLINK_ASSIGN_OR_RETURN(document.tokens,
                            input_.tokenizer->Encode(link::DocumentText(*input_.profile, item.title, item.text),
                                                     /*parse_special=*/false));
    const int64_t tokens = static_cast<int64_t>(document.tokens.size());
    if (tokens == 0) return absl::InvalidArgumentError("the document has no tokens; remove it or give it text");
    if (tokens > input_.context) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the document has ", tokens, " tokens, more than the model's context of ", input_.context, "; split it"));
    }
    document.identity = input_.encoder->IdentityOf(document.tokens);
    return document;
  }

  // Encoding.
  void EncodeAll() {
    for (;;) {
      std::vector<Document> documents = prepared_.Pop(batch_tokens_);
      if (documents.empty() || Stopped()) return;
      const absl::Status status = EncodeBatch(std::move(documents));
      if (status.ok()) continue;
      if (!absl::IsCancelled(status)) Stop(status);
      return;
    }
  }

  absl::Status EncodeBatch(std::vector<Document> documents) {
    KVLINK_ASSIGN_OR_RETURN(std::vector<WriteJob> jobs, Plan(std::move(documents)));
    std::vector<absl::Span<const int32_t>> texts;
    std::vector<WriteJob*> missing;
    for (WriteJob& job : jobs) {
      if (!job.documents.front().encoded_here) continue;
      texts.push_back(job.documents.front().tokens);
      missing.push_back(&job);
    }
    if (!texts.empty()) {
      KVLINK_ASSIGN_OR_RETURN(std::vector<encode::Encoded> encoded, input_.encoder->Encode(texts));
      for (size_t i = 0; i < missing.size(); ++i) {
        Count([&](IngestCounts& counts) { counts.tokens += encoded[i].manifest.tokens; });
        missing[i]->encoded = std::move(encoded[i]);
      }
    }
    for (WriteJob& job : jobs) {
      const int64_t weight = job.encoded.has_value() ? job.encoded->manifest.bytes() : 1;
      KVLINK_RETURN_IF_ERROR(jobs_.Push(std::move(job), weight));
    }
    return absl::OkStatus();
  }

  // Sorts documents into those that are complete, those whose encoding is there or on its way, and those to be encoded.
  absl::StatusOr<std::vector<WriteJob>> Plan(std::vector<Document> documents) {
    std::vector<Document> left;
    {
      MutexLock lock(&mutex_);
      for (Document& document : documents) {
        const auto waiting = waiting_.find(document.identity);
        if (waiting != waiting_.end()) {
          waiting->second.push_back(std::move(document));
        } else {
          left.push_back(std::move(document));
        }
      }
    }
    KVLINK_ASSIGN_OR_RETURN(const std::vector<store::Found> found, LookUp(left));
    std::vector<WriteJob> jobs;
    absl::flat_hash_map<Identity, size_t> job_of;
    for (size_t i = 0; i < left.size(); ++i) {
      Document& document = left[i];
      const InCatalog catalogued = FindInCatalog(document);
      document.replaces = catalogued == InCatalog::kOther;
      if (found[i].present) Remember(document.identity, found[i].bytes);
      if (found[i].present && catalogued == InCatalog::kSame) {
        Count([&](IngestCounts& counts) {
          ++counts.skipped;
          counts.position = std::max(counts.position, document.position);
        });
        continue;
      }
      const auto [job, is_new] = job_of.try_emplace(document.identity, jobs.size());
      if (is_new) jobs.push_back({.identity = document.identity});
      document.encoded_here = is_new && !found[i].present;
      jobs[job->second].documents.push_back(std::move(document));
    }
    MutexLock lock(&mutex_);
    for (const WriteJob& job : jobs) {
      if (job.documents.front().encoded_here) waiting_.try_emplace(job.identity);
    }
    return jobs;
  }

  absl::StatusOr<std::vector<store::Found>> LookUp(const std::vector<Document>& documents) {
    std::vector<Identity> identities;
    for (const Document& document : documents) identities.push_back(document.identity);
    absl::StatusOr<std::vector<store::Found>> found;
    KVLINK_RETURN_IF_ERROR(Persist([&] {
      found = input_.store->Lookup(options_.ns, identities, input_.encoder->options().codec);
      return found.status();
    }));
    return found;
  }

  // What the catalog has under a document's id.
  enum class InCatalog { kNothing, kSame, kOther };
  InCatalog FindInCatalog(const Document& document) {
    const auto entry = input_.store->GetDocument(options_.ns, document.id);
    if (!entry.ok()) return InCatalog::kNothing;
    const bool same = entry->model == input_.fingerprint && entry->title == document.title &&
                      entry->parts.size() == 1 && entry->parts[0].identity == document.identity;
    return same ? InCatalog::kSame : InCatalog::kOther;
  }

  // Writing.
  void WriteAll() {
    for (;;) {
      std::vector<WriteJob> jobs = jobs_.Pop(1);
      if (jobs.empty()) return;
      for (WriteJob& job : jobs) Write(job);
    }
  }

  void Write(WriteJob& job) {
    const absl::Status status = Put(job);
    {
      // From here on a lookup finds the encoding (or it failed): nobody waits for it any more.
      MutexLock lock(&mutex_);
      const auto waiting = waiting_.find(job.identity);
      if (job.encoded.has_value() && waiting != waiting_.end()) {
        for (Document& document : waiting->second) job.documents.push_back(std::move(document));
        waiting_.erase(waiting);
      }
    }
    job.encoded.reset();
    for (const Document& document : job.documents) {
      const absl::Status catalogued = status.ok() ? Catalogue(document) : status;
      if (!catalogued.ok()) {
        Fail(document.where, document.id, document.position, catalogued);
        if (EndsTheRun(catalogued)) Stop(Annotate(catalogued, absl::StrCat("at document '", document.id, "'")));
        continue;
      }
      Count([&](IngestCounts& counts) {
        ++counts.added;
        counts.replaced += document.replaces ? 1 : 0;
        counts.shared += document.encoded_here ? 0 : 1;
        counts.position = std::max(counts.position, document.position);
      });
    }
  }

  absl::Status Put(const WriteJob& job) {
    if (!job.encoded.has_value()) return absl::OkStatus();
    absl::StatusOr<store::PutResult> result;
    KVLINK_RETURN_IF_ERROR(Persist([&] {
      result =
          input_.store->Put(options_.ns, job.encoded->manifest, job.encoded->slabs, SteadyNow() + options_.put_timeout);
      return result.status();
    }));
    Remember(job.identity, job.encoded->manifest.bytes());
    if (result->written) {
      Count([&](IngestCounts& counts) { counts.bytes += job.encoded->manifest.bytes(); });
    }
    return absl::OkStatus();
  }

  absl::Status Catalogue(const Document& document) {
    CatalogEntry entry;
    entry.generation = generation_;
    entry.model = input_.fingerprint;
    entry.title = document.title;
    entry.parts.push_back({document.identity, document.tokens});
    const absl::Status status = Persist([&] { return input_.store->PutDocument(options_.ns, document.id, entry); });
    // Somebody else ingested the same at the same time: it is complete.
    if (absl::IsFailedPrecondition(status) && FindInCatalog(document) == InCatalog::kSame) return absl::OkStatus();
    return status;
  }

  // Carries out `call`, again and again while the store is away, at most for options_.outage.
  template <typename Call>
  absl::Status Persist(Call call) {
    const absl::Time until = SteadyNow() + options_.outage;
    absl::Duration pause = absl::Milliseconds(100);
    for (;;) {
      const absl::Status status = call();
      if (!absl::IsUnavailable(status) || SteadyNow() + pause > until || Stopped()) return status;
      absl::SleepFor(pause);
      pause = std::min(2 * pause, absl::Seconds(2));
    }
  }

  // What this run needs the store to hold in the end.
  void Remember(const Identity& identity, int64_t bytes) {
    MutexLock lock(&mutex_);
    if (needed_.insert(identity).second) counts_.corpus_bytes += bytes;
  }

  // Encodings that had to make room for later ones. A store that does not answer any more says nothing.
  void CountEvicted() {
    std::vector<Identity> identities;
    {
      MutexLock lock(&mutex_);
      identities.assign(needed_.begin(), needed_.end());
    }
    constexpr size_t kBatch = 1000;
    int64_t evicted = 0;
    for (size_t i = 0; i < identities.size(); i += kBatch) {
      const auto found = input_.store->Lookup(options_.ns, absl::MakeConstSpan(identities).subspan(i, kBatch),
                                              input_.encoder->options().codec);
      if (!found.ok()) return;
      evicted += std::count_if(found->begin(), found->end(), [](const store::Found& one) { return !one.present; });
    }
    MutexLock lock(&mutex_);
    counts_.evicted = evicted;
  }

  // What all threads share.
  template <typename Change>
  void Count(Change change) {
    MutexLock lock(&mutex_);
    change(counts_);
    if (callbacks_.progress) callbacks_.progress(counts_);
  }

  void Fail(absl::string_view where, absl::string_view id, int64_t position, const absl::Status& status) {
    {
      MutexLock lock(&mutex_);
      ++counts_.failed;
      counts_.position = std::max(counts_.position, position);
      if (callbacks_.failed) callbacks_.failed(where, id, status);
      if (callbacks_.progress) callbacks_.progress(counts_);
    }
    if (options_.stop_at_first_failure) Stop(absl::AbortedError("stopped at the first failure"));
  }

  // Ends the run; the first reason is the one returned.
  void Stop(const absl::Status& status) {
    {
      MutexLock lock(&mutex_);
      if (stopped_) return;
      stopped_ = true;
      status_ = status;
    }
    prepared_.Close();
    jobs_.Close();
  }

  bool Stopped() {
    MutexLock lock(&mutex_);
    return stopped_;
  }

  const IngestInput& input_;
  const IngestOptions& options_;
  const IngestCallbacks& callbacks_;
  const uint64_t generation_;
  const int64_t batch_tokens_;
  BoundedQueue<Document> prepared_;  // by tokens
  BoundedQueue<WriteJob> jobs_;      // by bytes

  Mutex mutex_;
  IngestCounts counts_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<Identity> needed_ ABSL_GUARDED_BY(mutex_);
  // Documents whose text another document's encoding, now between plan and put, will serve.
  absl::flat_hash_map<Identity, std::vector<Document>> waiting_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status Ingest(const IngestInput& input, const IngestOptions& options, const IngestCallbacks& callbacks,
                    IngestCounts* counts) {
  *counts = {};
  KVLINK_RETURN_IF_ERROR(store::ValidateName("namespace", options.ns));
  return Run(input, options, callbacks).Execute(counts);
}

}  // namespace kvlink::ingest
