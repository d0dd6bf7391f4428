#include "tests/store/workload.h"

#include <random>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::testing {
namespace {

constexpr char kNamespace[] = "crash";
constexpr int kDocuments = 6;  // of each thread

absl::Time Deadline() { return SteadyNow() + absl::Seconds(120); }

// Most encodings fit a block, some need several.
Synthetic EncodingNumber(uint64_t number) { return MakeSynthetic(number, 2, number % 5 == 0 ? 700 : 40); }

absl::Status Apply(store::Store* store, const PutEncoding& put, const Change& change) {
  if (change.deletes) return store->DeleteDocument(kNamespace, change.id(), change.version);
  for (const Synthetic& encoding : change.Encodings()) {
    KVLINK_RETURN_IF_ERROR(put(kNamespace, encoding));
  }
  return store->PutDocument(kNamespace, change.id(), change.Entry());
}

}  // namespace

std::vector<Synthetic> Change::Encodings() const {
  std::vector<Synthetic> encodings;
  encodings.push_back(EncodingNumber(1000000 + thread * 100000 + document * 1000 + version));
  if (version % 3 == 0) encodings.push_back(EncodingNumber(900 + (thread + document + version) % 4));
  return encodings;
}

CatalogEntry Change::Entry() const {
  const std::vector<Synthetic> encodings = Encodings();
  std::vector<const Synthetic*> parts;
  for (const Synthetic& encoding : encodings) parts.push_back(&encoding);
  return EntryOf(parts, version, absl::StrCat(id(), " version ", version));
}

PutEncoding PutInto(store::Store* store) {
  return [store](absl::string_view ns, const Synthetic& encoding) {
    return store->Put(ns, encoding.manifest, encoding.spans(), Deadline()).status();
  };
}

absl::Status RunChanges(store::Store* store, const PutEncoding& put, uint64_t seed, int thread, int count,
                        const std::function<void(const Change&)>& started,
                        const std::function<void(const Change&)>& acknowledged) {
  std::mt19937_64 random(seed * 31 + thread);
  std::vector<uint64_t> versions(kDocuments, 0);
  for (int i = 0; i < count; ++i) {
    Change change;
    change.thread = thread;
    change.document = static_cast<int>(random() % kDocuments);
    change.version = ++versions[change.document];
    change.deletes = random() % 5 == 0;
    started(change);
    KVLINK_RETURN_IF_ERROR(Annotate(Apply(store, put, change), absl::StrCat("change ", i, " of thread ", thread)));
    acknowledged(change);
  }
  return absl::OkStatus();
}

void Ledger::Started(const Change& change, int64_t moment) {
  MutexLock lock(&mutex_);
  lines_[change.id()].push_back({change, moment, INT64_MAX});
}

void Ledger::Acknowledged(const Change& change, int64_t moment) {
  MutexLock lock(&mutex_);
  lines_[change.id()].back().acknowledged = moment;
}

absl::Status Ledger::CheckDocument(store::Store* store, const std::vector<Line>& lines, int64_t moment,
                                   bool evictions) const {
  // The states allowed: that of the last acknowledged change, or of the one under way.
  const Line* promised = nullptr;
  const Line* under_way = nullptr;
  for (const Line& line : lines) {
    if (line.started >= moment) break;
    (line.acknowledged < moment ? promised : under_way) = &line;
  }
  const std::string id = lines[0].change.id();
  const auto got = store->GetDocument(kNamespace, id);
  if (!got.ok() && !absl::IsNotFound(got.status())) return got.status();
  const auto matches = [&](const Line* line) {
    if (line == nullptr || line->change.deletes) return !got.ok();
    return got.ok() && got->written_at_us > 0 && ContentOf(*got) == ContentOf(line->change.Entry());
  };
  const bool as_promised = matches(promised);
  if (!as_promised && !(under_way != nullptr && matches(under_way))) {
    return absl::InternalError(absl::StrCat("document ", id, " is ",
                                            got.ok() ? absl::StrCat("of generation ", got->generation) : "gone",
                                            ", promised was ", promised == nullptr ? 0 : promised->change.version));
  }
  // Whatever version is served: right bytes, or a miss.
  for (const Line& line : lines) {
    if (line.change.deletes) continue;
    const std::vector<Synthetic> encodings = line.change.Encodings();
    for (size_t i = 0; i < encodings.size(); ++i) {
      const absl::Status status = ReadAndCompare(store, kNamespace, encodings[i]);
      if (status.ok()) continue;
      if (!absl::IsNotFound(status)) return Annotate(status, absl::StrCat(id, " version ", line.change.version));
      // Its own encoding was promised, and nothing but eviction takes it. (A shared one may go with another document.)
      if (i == 0 && as_promised && &line == promised && under_way == nullptr && !evictions) {
        return absl::InternalError(
            absl::StrCat(id, " version ", line.change.version, ": an acknowledged encoding is gone"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Ledger::Check(store::Store* store, int64_t moment, bool evictions) const {
  MutexLock lock(&mutex_);
  auto report = store->Verify({});
  KVLINK_RETURN_IF_ERROR(report.status());
  if (!report->damaged.empty()) return absl::InternalError("verify found damage: " + report->damaged[0].what);
  if (!report->index_problems.empty()) return absl::InternalError("verify: " + report->index_problems[0]);
  KVLINK_ASSIGN_OR_RETURN(const store::StoreStats stats, store->Stats());
  if (stats.integrity_failures != 0) return absl::InternalError("records were dropped at open");
  if (stats.double_claims != 0) return absl::InternalError("a block was claimed twice");
  for (const auto& [id, lines] : lines_) KVLINK_RETURN_IF_ERROR(CheckDocument(store, lines, moment, evictions));

  // The work goes on: a further version of every document.
  for (const auto& [id, lines] : lines_) {
    Change next = lines.back().change;
    ++next.version;
    next.deletes = false;
    KVLINK_RETURN_IF_ERROR(Annotate(Apply(store, PutInto(store), next), "resume"));
    KVLINK_RETURN_IF_ERROR(Annotate(ReadAndCompare(store, kNamespace, next.Encodings()[0]), "resume"));
  }
  report = store->Verify({});
  KVLINK_RETURN_IF_ERROR(report.status());
  if (!report->damaged.empty() || !report->index_problems.empty()) return absl::InternalError("verify after resuming");
  return absl::OkStatus();
}

}  // namespace kvlink::testing
