// One reader, one encoder (the calling thread) and several writers, with a bounded queue between each two. The first
// error that ends the run closes the queues, and everybody stops at the next one.
#include "worker/ingest/ingest.h"

#include <algorithm>
#include <deque>
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

// How many ids a run remembers to find duplicates, and how many encodings to count those that were evicted again:
// memory of some 40 and 60 MB, whatever the corpus. Beyond that, see Run::FindInCatalog and Run::Remember.
constexpr size_t kMaxRecentIds = size_t{1} << 18, kMaxRemembered = size_t{1} << 20;
// Bytes of encodings that a writer takes from the queue at a time; catalogued together.
constexpr int64_t kWriteBytes = int64_t{16} << 20;

// The latest ids of a run, and where they were used.
class RecentIds {
 public:
  // Where the id was used before, if that is known.
  std::optional<std::string> Add(const std::string& id, const std::string& where) {
    const auto [it, is_new] = where_.try_emplace(id, where);
    if (!is_new) return it->second;
    order_.push_back(id);
    if (order_.size() > kMaxRecentIds) {
      where_.erase(order_.front());
      order_.pop_front();
    }
    return std::nullopt;
  }

 private:
  absl::flat_hash_map<std::string, std::string> where_;
  std::deque<std::string> order_;
};

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

// One job of a writer: stores the encoding (if it is not there yet) and catalogues the documents that have it.
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
        generation_(options.generation),
        batch_tokens_(input.encoder->options().batch_tokens),
        prepared_(8 * batch_tokens_, options.patience),
        jobs_(options.queued_bytes, options.patience) {}

  absl::Status Execute(IngestCounts* counts) {
    if (generation_ == 0) KVLINK_RETURN_IF_ERROR(TakeGeneration());
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
  // One for all documents of the run, which is how duplicates are told from what was there before (FindInCatalog).
  absl::Status TakeGeneration() {
    return Persist([&]() -> absl::Status {
      KVLINK_ASSIGN_OR_RETURN(const store::StoreStats stats, input_.store->Stats());
      generation_ = stats.clock_us;
      return absl::OkStatus();
    });
  }

  // Reading.
  void ReadAll() {
    RecentIds seen;
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

  absl::StatusOr<Document> Prepare(const SourceItem& item, RecentIds& seen) const {
    KVLINK_RETURN_IF_ERROR(item.status);
    KVLINK_RETURN_IF_ERROR(store::ValidateName("document id", item.id));
    if (const auto earlier = seen.Add(item.id, item.where)) {
      return absl::AlreadyExistsError(
          absl::StrCat("duplicate id; it was first used at ", *earlier,
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
      // The documents' tokens count as well: jobs without an encoding may be many.
      int64_t weight = job.encoded.has_value() ? job.encoded->manifest.bytes() : 0;
      for (const Document& document : job.documents) weight += static_cast<int64_t>(4 * document.tokens.size());
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
    KVLINK_ASSIGN_OR_RETURN(const std::vector<InCatalog> in_catalog, FindInCatalog(left));
    std::vector<WriteJob> jobs;
    absl::flat_hash_map<Identity, size_t> job_of;
    for (size_t i = 0; i < left.size(); ++i) {
      Document& document = left[i];
      const InCatalog catalogued = in_catalog[i];
      if (catalogued == InCatalog::kOfThisRun) {
        Fail(document.where, document.id, document.position,
             absl::AlreadyExistsError("duplicate id; an earlier document of this run has it, give each its own"));
        continue;
      }
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

  // The catalog's entry under a document's id. kOfThisRun: another document that this run wrote, which is how
  // duplicates are found that lie too far apart for RecentIds. Only a generation that is the run's own tells that: of
  // two such documents with a generation that was given, the later one replaces the earlier.
  enum class InCatalog { kNothing, kSame, kOther, kOfThisRun };
  absl::StatusOr<std::vector<InCatalog>> FindInCatalog(const std::vector<Document>& documents) {
    std::vector<std::string> ids;
    for (const Document& document : documents) ids.push_back(document.id);
    absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> entries;
    KVLINK_RETURN_IF_ERROR(Persist([&] {
      entries = input_.store->GetDocuments(options_.ns, ids);
      return entries.status();
    }));
    std::vector<InCatalog> states;
    for (size_t i = 0; i < documents.size(); ++i) {
      const absl::StatusOr<CatalogEntry>& entry = (*entries)[i];
      if (!entry.ok()) {
        states.push_back(InCatalog::kNothing);
      } else if (entry->model == input_.fingerprint && entry->title == documents[i].title && entry->parts.size() == 1 &&
                 entry->parts[0].identity == documents[i].identity) {
        states.push_back(InCatalog::kSame);
      } else {
        const bool ours = options_.generation == 0 && entry->generation == generation_;
        states.push_back(ours ? InCatalog::kOfThisRun : InCatalog::kOther);
      }
    }
    return states;
  }

  // Writing.
  void WriteAll() {
    for (;;) {
      std::vector<WriteJob> jobs = jobs_.Pop(kWriteBytes);
      if (jobs.empty()) return;
      std::vector<Document> stored;
      for (WriteJob& job : jobs) Write(job, &stored);
      Catalogue(stored);
    }
  }

  // Stores an encoding; the documents that have it go to `stored`.
  void Write(WriteJob& job, std::vector<Document>* stored) {
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
    for (Document& document : job.documents) {
      if (status.ok()) {
        stored->push_back(std::move(document));
      } else {
        FailWriting(document, status);
      }
    }
  }

  void FailWriting(const Document& document, const absl::Status& status) {
    Fail(document.where, document.id, document.position, status);
    if (EndsTheRun(status)) Stop(Annotate(status, absl::StrCat("at document '", document.id, "'")));
  }

  // Writes the entries of documents whose encodings are durable, all together.
  void Catalogue(const std::vector<Document>& documents) {
    if (documents.empty()) return;
    const std::vector<absl::Status> statuses = PutEntries(documents);
    for (size_t i = 0; i < documents.size(); ++i) {
      const Document& document = documents[i];
      const absl::Status& catalogued = statuses[i];
      if (!catalogued.ok()) {
        FailWriting(document, catalogued);
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
    if (result->written()) {
      Count([&](IngestCounts& counts) { counts.bytes += job.encoded->manifest.bytes(); });
    }
    return absl::OkStatus();
  }

  // A status for each.
  std::vector<absl::Status> PutEntries(const std::vector<Document>& documents) {
    std::vector<store::DocumentPut> puts;
    for (const Document& document : documents) {
      CatalogEntry entry;
      entry.generation = generation_;
      entry.model = input_.fingerprint;
      entry.title = document.title;
      entry.parts.push_back({document.identity, document.tokens});
      puts.push_back({document.id, std::move(entry)});
    }
    std::vector<absl::Status> statuses;
    const absl::Status status = Persist([&]() -> absl::Status {
      KVLINK_ASSIGN_OR_RETURN(const auto put, input_.store->PutDocuments(options_.ns, puts));
      for (const absl::StatusOr<uint64_t>& one : put) statuses.push_back(one.status());
      return absl::OkStatus();
    });
    if (!status.ok()) return std::vector<absl::Status>(documents.size(), status);
    // Whoever ingested the same at the same time has written what this run would have: it is complete.
    std::vector<Document> refused;
    std::vector<size_t> places;
    for (size_t i = 0; i < documents.size(); ++i) {
      if (!absl::IsFailedPrecondition(statuses[i])) continue;
      refused.push_back(documents[i]);
      places.push_back(i);
    }
    if (refused.empty()) return statuses;
    const auto states = FindInCatalog(refused);
    for (size_t k = 0; states.ok() && k < places.size(); ++k) {
      if ((*states)[k] == InCatalog::kSame) statuses[places[k]] = absl::OkStatus();
    }
    return statuses;
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

  // Notes an encoding that the store must hold in the end. Only a part of a larger corpus is noted, so that the count
  // of evictions is a lower bound.
  void Remember(const Identity& identity, int64_t bytes) {
    MutexLock lock(&mutex_);
    if (needed_.size() >= kMaxRemembered && !needed_.contains(identity)) {
      counts_.corpus_bytes += bytes;
      return;
    }
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

  // Updates the shared counts and reports progress.
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
  uint64_t generation_;  // set before the threads run
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
