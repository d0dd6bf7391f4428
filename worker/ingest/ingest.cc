// A reader, a checker that looks documents up and tokenises incomplete ones, an encoder (the calling thread) and
// several writers, connected by bounded queues. The first error that ends the run closes the queues, and every stage
// stops at its next queue operation.
#include "worker/ingest/ingest.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "worker/ingest/bounded_queue.h"
#include "worker/ingest/content.h"
#include "worker/ingest/document.h"
#include "worker/ingest/patient_store.h"
#include "worker/ingest/recent_ids.h"

namespace kvlink::ingest {
namespace {

// Bytes of text queued for lookup, and looked up at a time; kGather is how long a batch may take to accumulate.
constexpr int64_t kReadBytes = int64_t{32} << 20, kCheckBytes = int64_t{2} << 20, kReadDocumentBytes = 512;
constexpr absl::Duration kGather = absl::Milliseconds(20);
// Bytes of encodings that a writer takes from the queue at a time and catalogues together.
constexpr int64_t kWriteBytes = int64_t{16} << 20;

using DocumentPtr = std::shared_ptr<Document>;

// A writer's job: stores the encoding of a part, if there is one. Each of the documents then has one thing less to wait
// for, and is catalogued when nothing is left.
struct WriteJob {
  Identity identity;
  absl::Span<const int32_t> tokens;  // of the first document
  std::optional<encode::Encoded> encoded;
  std::vector<DocumentPtr> documents;
};

// Distinguishes errors of one document from errors that the next one would meet as well.
bool EndsTheRun(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
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
  Run(const IngestInput& input, const IngestOptions& options, const IngestCallbacks& callbacks,
      const ChunkLimits& limits)
      : input_(input),
        options_(options),
        callbacks_(callbacks),
        limits_(limits),
        digester_(input.encoder->IdentityOf({}), *input.tokenizer, *input.profile, limits),
        store_(input.store, options.ns, input.encoder->options().codec, options.outage),
        generation_(options.generation),
        batch_tokens_(input.encoder->options().batch_tokens),
        read_(kReadBytes, options.patience + options.outage),
        prepared_(8 * batch_tokens_, options.patience + options.outage),
        jobs_(options.queued_bytes, options.patience + options.outage) {}

  absl::Status Execute(IngestCounts* counts) {
    // One generation for the whole run distinguishes duplicates from earlier entries (IsOfThisRun).
    KVLINK_ASSIGN_OR_RETURN(const uint64_t began_us, store_.Clock());
    if (generation_ == 0) generation_ = began_us;
    Thread reader("ingest-read", [this] { ReadAll(); });
    Thread checker("ingest-check", [this] { CheckAll(); });
    std::vector<Thread> writers;
    for (int i = 0; i < std::max(1, options_.writers); ++i)
      writers.emplace_back("ingest-write", [this] { WriteAll(); });
    EncodeAll();
    jobs_.Finish();
    for (Thread& writer : writers) writer.Join();
    prepared_.Close();
    read_.Close();
    if (Stopped()) input_.source->Stop();  // the reader may be waiting for input that is no longer needed
    checker.Join();
    reader.Join();
    const PatientStore::Missing missing = Stopped() ? PatientStore::Missing() : store_.CountMissing();
    MutexLock lock(&mutex_);
    counts_.generation = generation_;
    counts_.began_us = began_us;
    (missing.evicted ? counts_.evicted : counts_.deleted) = missing.encodings;
    counts_.corpus_bytes = store_.corpus_bytes();
    *counts = counts_;
    return status_;
  }

 private:
  // Reading.
  void ReadAll() {
    RecentIds recent;
    while (!Stopped()) {
      std::optional<SourceItem> item = input_.source->Next();
      if (!item.has_value()) break;
      Count([](IngestCounts& counts) { ++counts.documents; });
      if (input_.seen != nullptr && !item->id.empty()) {
        if (const absl::Status noted = input_.seen->Add(item->id); !noted.ok()) {
          Stop(noted);
          break;
        }
      }
      if (const absl::Status status = CheckItem(*item, recent); !status.ok()) {
        FailItem(*item, status);
        continue;
      }
      const int64_t weight = static_cast<int64_t>(item->text.size()) + kReadDocumentBytes;
      const ContentDigest content = digester_.Of(item->title, item->text);
      const absl::Status pushed = read_.Push({*std::move(item), content}, weight);
      if (!pushed.ok()) {
        if (!absl::IsCancelled(pushed)) Stop(pushed);
        break;
      }
    }
    read_.Finish();
  }

  absl::Status CheckItem(const SourceItem& item, RecentIds& recent) const {
    KVLINK_RETURN_IF_ERROR(item.status);
    KVLINK_RETURN_IF_ERROR(store::ValidateName("document id", item.id));
    if (!absl::StartsWith(item.id, options_.prefix)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the id does not begin with '", options_.prefix, "'; correct the id, or --prefix"));
    }
    if (const auto earlier = recent.Add(item.id, item.where)) {
      return absl::AlreadyExistsError(
          absl::StrCat("duplicate id, first used at ", *earlier,
                       "; give each document its own (text files get their path in the directory as id)"));
    }
    return CheckText(item.text);
  }

  // Looking up.
  void CheckAll() {
    for (;;) {
      std::vector<ReadDocument> documents = read_.Pop(kCheckBytes, kGather);
      if (documents.empty() || Stopped() || input_.source->stopped()) break;
      const absl::Status status = CheckBatch(documents);
      if (status.ok()) continue;
      if (!absl::IsCancelled(status)) Stop(status);
      break;
    }
    prepared_.Finish();
  }

  // Skips complete documents and passes on the rest.
  absl::Status CheckBatch(const std::vector<ReadDocument>& documents) {
    std::vector<std::string> ids;
    for (const ReadDocument& document : documents) ids.push_back(document.item.id);
    KVLINK_ASSIGN_OR_RETURN(const auto entries, store_.GetDocuments(ids));
    KVLINK_ASSIGN_OR_RETURN(const std::vector<bool> complete, FindComplete(documents, entries));
    for (size_t i = 0; i < documents.size(); ++i) {
      if (complete[i]) continue;
      if (input_.source->stopped()) break;
      const SourceItem& item = documents[i].item;
      const absl::StatusOr<CatalogEntry>& entry = entries[i];
      if (entry.ok() && IsOfThisRun(*entry) && entry->content != documents[i].content) {
        FailItem(item, absl::AlreadyExistsError(
                           "duplicate id; an earlier document of this run has it, give each document its own"));
        continue;
      }
      absl::StatusOr<Document> document =
          Prepare(*input_.tokenizer, *input_.profile, limits_, *input_.encoder, documents[i]);
      if (!document.ok()) {
        FailItem(item, document.status());
        continue;
      }
      document->replaces = entry.ok() && !SaysTheSame(*entry, input_.fingerprint, *document);
      const int64_t weight = document->tokens;
      KVLINK_RETURN_IF_ERROR(prepared_.Push(*std::move(document), weight));
    }
    return absl::OkStatus();
  }

  // Whether this run wrote the entry, for another document of the same id: this finds duplicates too far apart for
  // RecentIds. Only a generation chosen by the run shows that; with a given generation, the later of two such documents
  // replaces the earlier.
  bool IsOfThisRun(const CatalogEntry& entry) const {
    return options_.generation == 0 && entry.generation == generation_;
  }

  // Determines which documents are unchanged and have all their encodings, and counts them.
  absl::StatusOr<std::vector<bool>> FindComplete(const std::vector<ReadDocument>& documents,
                                                 const PatientStore::Entries& entries) {
    std::vector<bool> complete(documents.size());
    std::vector<Identity> identities;
    for (size_t i = 0; i < documents.size(); ++i) {
      complete[i] = entries[i].ok() && IsUnchanged(*entries[i], input_.fingerprint, documents[i]);
      if (!complete[i]) continue;
      for (const CatalogPart& part : entries[i]->parts) identities.push_back(part.identity);
    }
    KVLINK_ASSIGN_OR_RETURN(const std::vector<store::Found> found, store_.Lookup(identities));
    int64_t skipped = 0, position = 0;
    size_t next = 0;
    for (size_t i = 0; i < documents.size(); ++i) {
      if (!complete[i]) continue;
      for (size_t part = 0; part < entries[i]->parts.size(); ++part, ++next) {
        complete[i] = complete[i] && found[next].present;
      }
      if (!complete[i]) continue;
      ++skipped;
      position = std::max(position, documents[i].item.position);
    }
    if (skipped > 0) {
      Count([&](IngestCounts& counts) {
        counts.skipped += skipped;
        counts.position = std::max(counts.position, position);
      });
    }
    return complete;
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

  absl::Status EncodeBatch(std::vector<Document> batch) {
    WriteJob last;  // what the documents wait for besides their parts
    int64_t cut = 0, last_weight = 0;
    for (Document& document : batch) {
      cut += document.parts.size() > 1 ? 1 : 0;
      last_weight += 4 * document.tokens;
      last.documents.push_back(std::make_shared<Document>(std::move(document)));
    }
    if (cut > 0) Count([&](IngestCounts& counts) { counts.cut += cut; });
    KVLINK_ASSIGN_OR_RETURN(std::vector<WriteJob> missing, Plan(last.documents));
    // A long document may have more parts than one pass takes, or than fit into memory; so may the encodings of many
    // short documents inside a wrapper.
    const int64_t around = input_.encoder->options().wrapper.tokens();
    for (size_t next = 0; next < missing.size();) {
      const size_t begin = next;
      // What is encoded of a long document by now is found by the next run.
      if (begin > 0 && input_.source->stopped()) return absl::CancelledError("the source was stopped");
      std::vector<absl::Span<const int32_t>> texts;
      int64_t tokens = 0, encoded_tokens = 0;
      for (; next < missing.size(); ++next) {
        const int64_t own = static_cast<int64_t>(missing[next].tokens.size()), more = own + around;
        if (!texts.empty() && encoded_tokens + more > batch_tokens_) break;
        tokens += own;
        encoded_tokens += more;
        texts.push_back(missing[next].tokens);
      }
      KVLINK_ASSIGN_OR_RETURN(std::vector<encode::Encoded> encoded, input_.encoder->Encode(texts));
      Count([&](IngestCounts& counts) {
        counts.encodings += static_cast<int64_t>(encoded.size());
        counts.tokens += tokens;
      });
      for (size_t i = begin; i < next; ++i) {
        missing[i].encoded = std::move(encoded[i - begin]);
        const int64_t weight = missing[i].encoded->manifest.bytes();
        KVLINK_RETURN_IF_ERROR(jobs_.Push(std::move(missing[i]), weight));
      }
    }
    return jobs_.Push(std::move(last), last_weight);
  }

  // Makes a job for each part whose encoding neither exists nor is being computed. Each document waits for the jobs of
  // its parts, plus one.
  absl::StatusOr<std::vector<WriteJob>> Plan(const std::vector<DocumentPtr>& documents) {
    std::vector<std::pair<DocumentPtr, const CatalogPart*>> parts;
    std::vector<Identity> identities;
    {
      MutexLock lock(&mutex_);
      for (const DocumentPtr& document : documents) {
        ++document->pending;
        for (const CatalogPart& part : document->parts) {
          const auto waiting = waiting_.find(part.identity);
          if (waiting != waiting_.end()) {
            waiting->second.push_back(document);
            ++document->pending;
          } else {
            parts.emplace_back(document, &part);
            identities.push_back(part.identity);
          }
        }
      }
    }
    KVLINK_ASSIGN_OR_RETURN(const std::vector<store::Found> found, store_.Lookup(identities));
    std::vector<WriteJob> jobs;
    absl::flat_hash_map<Identity, size_t> job_of;
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto& [document, part] = parts[i];
      if (found[i].present) continue;
      const auto [job, is_new] = job_of.try_emplace(part->identity, jobs.size());
      if (is_new) {
        jobs.push_back({.identity = part->identity, .tokens = part->tokens});
        document->encoded_here = true;
      }
      jobs[job->second].documents.push_back(document);
    }
    MutexLock lock(&mutex_);
    for (const WriteJob& job : jobs) {
      waiting_.try_emplace(job.identity);
      for (const DocumentPtr& document : job.documents) ++document->pending;
    }
    return jobs;
  }

  // Writing.
  void WriteAll() {
    for (;;) {
      std::vector<WriteJob> jobs = jobs_.Pop(kWriteBytes);
      if (jobs.empty()) return;
      std::vector<DocumentPtr> stored;
      for (WriteJob& job : jobs) {
        if (Stopped()) break;  // a store that hangs would take the time of a put for each
        Write(job, &stored);
      }
      Catalogue(stored);
    }
  }

  // Stores an encoding; documents that waited for nothing else go to `stored`.
  void Write(WriteJob& job, std::vector<DocumentPtr>* stored) {
    const absl::Status status = Put(job);
    if (EndsTheRun(status)) Stop(Annotate(status, absl::StrCat("at document '", job.documents[0]->id, "'")));
    std::vector<DocumentPtr> finished;
    {
      MutexLock lock(&mutex_);
      // From here on a lookup finds the encoding (or it failed), so waiting documents are released.
      const auto waiting = waiting_.find(job.identity);
      if (job.encoded.has_value() && waiting != waiting_.end()) {
        for (DocumentPtr& document : waiting->second) job.documents.push_back(std::move(document));
        waiting_.erase(waiting);
      }
      for (DocumentPtr& document : job.documents) {
        document->status.Update(status);
        if (--document->pending == 0) finished.push_back(std::move(document));
      }
    }
    job.encoded.reset();
    for (DocumentPtr& document : finished) {
      if (document->status.ok()) {
        stored->push_back(std::move(document));
      } else {
        FailWriting(*document, document->status);
      }
    }
  }

  void FailWriting(const Document& document, const absl::Status& status) {
    Fail({.where = document.where,
          .position = document.position,
          .id = document.id,
          .title = document.title,
          .status = status});
    if (EndsTheRun(status)) Stop(Annotate(status, absl::StrCat("at document '", document.id, "'")));
  }

  // Writes the entries of documents whose encodings are durable, in one batch.
  void Catalogue(const std::vector<DocumentPtr>& documents) {
    if (documents.empty()) return;
    const std::vector<absl::Status> statuses = PutEntries(documents);
    IngestCounts more;
    for (size_t i = 0; i < documents.size(); ++i) {
      const Document& document = *documents[i];
      if (!statuses[i].ok()) {
        FailWriting(document, statuses[i]);
        continue;
      }
      ++more.added;
      more.replaced += document.replaces ? 1 : 0;
      more.shared += document.encoded_here ? 0 : 1;
      more.position = std::max(more.position, document.position);
    }
    Count([&](IngestCounts& counts) {
      counts.added += more.added;
      counts.replaced += more.replaced;
      counts.shared += more.shared;
      counts.position = std::max(counts.position, more.position);
    });
  }

  absl::Status Put(const WriteJob& job) {
    if (!job.encoded.has_value()) return absl::OkStatus();
    KVLINK_ASSIGN_OR_RETURN(const bool written, store_.Put(*job.encoded, options_.put_timeout));
    if (written) Count([&](IngestCounts& counts) { counts.bytes += job.encoded->manifest.bytes(); });
    return absl::OkStatus();
  }

  // Returns one status per document.
  std::vector<absl::Status> PutEntries(const std::vector<DocumentPtr>& documents) {
    std::vector<store::DocumentPut> puts;
    for (const DocumentPtr& document : documents) {
      puts.push_back({document->id,
                      EntryOf(*document, input_.fingerprint, generation_, input_.encoder->options().wrapper.digest)});
    }
    std::vector<absl::Status> statuses = store_.PutDocuments(puts);
    // Another process may have ingested the same document concurrently: if its entry equals ours, it is complete.
    std::vector<std::string> refused;
    std::vector<size_t> places;
    for (size_t i = 0; i < documents.size(); ++i) {
      if (!absl::IsFailedPrecondition(statuses[i])) continue;
      refused.push_back(documents[i]->id);
      places.push_back(i);
    }
    if (refused.empty()) return statuses;
    const auto entries = store_.GetDocuments(refused);
    for (size_t k = 0; entries.ok() && k < places.size(); ++k) {
      const absl::StatusOr<CatalogEntry>& entry = (*entries)[k];
      if (entry.ok() && SaysTheSame(*entry, input_.fingerprint, *documents[places[k]])) {
        statuses[places[k]] = absl::OkStatus();
      }
    }
    return statuses;
  }

  // Updates the shared counts and reports progress.
  template <typename Change>
  void Count(Change change) {
    MutexLock lock(&mutex_);
    change(counts_);
    if (callbacks_.progress) callbacks_.progress(counts_);
  }

  void FailItem(const SourceItem& item, const absl::Status& status) {
    Fail({.where = item.where,
          .position = item.position,
          .id = item.id,
          .title = item.title,
          .text = item.text,
          .status = status});
  }

  void Fail(const Failure& failure) {
    absl::Status told;
    {
      MutexLock lock(&mutex_);
      ++counts_.failed;
      counts_.position = std::max(counts_.position, failure.position);
      if (callbacks_.failed) told = callbacks_.failed(failure);
      if (callbacks_.progress) callbacks_.progress(counts_);
    }
    if (!told.ok()) Stop(told);
    if (options_.stop_at_first_failure) Stop(absl::AbortedError("stopped at the first failure"));
  }

  // Ends the run; only the first reason is returned.
  void Stop(const absl::Status& status) {
    {
      MutexLock lock(&mutex_);
      if (stopped_) return;
      stopped_ = true;
      status_ = status;
    }
    store_.Stop();
    read_.Close();
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
  const ChunkLimits limits_;
  const ContentDigester digester_;
  PatientStore store_;
  uint64_t generation_;  // set before the threads start
  const int64_t batch_tokens_;
  BoundedQueue<ReadDocument> read_;  // by bytes
  BoundedQueue<Document> prepared_;  // by tokens
  BoundedQueue<WriteJob> jobs_;      // by bytes

  Mutex mutex_;
  IngestCounts counts_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  // Documents served by an encoding that is between plan and put, other than those of its job.
  absl::flat_hash_map<Identity, std::vector<DocumentPtr>> waiting_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status Ingest(const IngestInput& input, const IngestOptions& options, const IngestCallbacks& callbacks,
                    IngestCounts* counts) {
  *counts = {};
  KVLINK_RETURN_IF_ERROR(store::ValidateName("namespace", options.ns));
  KVLINK_ASSIGN_OR_RETURN(const ChunkLimits limits, ChunkLimitsOf(options.chunk_tokens, input.context));
  return Run(input, options, callbacks, limits).Execute(counts);
}

}  // namespace kvlink::ingest
