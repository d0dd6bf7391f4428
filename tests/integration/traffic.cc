#include "tests/integration/traffic.h"

#include <deque>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"

namespace kvlink::testing {
namespace {

constexpr size_t kKeptEncodings = 48;

Synthetic Make(uint64_t number) {
  switch (number % 4) {
    case 0:
      return MakeSynthetic(number, /*layers=*/8, /*tokens=*/512, /*kv_heads=*/4, /*head_dim=*/64);
    case 1:
      return MakeSynthetic(number, 2, 40, 1, 32);
    case 2:
      return MakeSynthetic(number, 4, 700, 1, 32);
    default:
      return MakeSynthetic(number, 16, 512, 2, 64);
  }
}

struct Kept {
  Mutex mutex;
  std::map<uint64_t, std::shared_ptr<const Synthetic>> made ABSL_GUARDED_BY(mutex);
  std::deque<uint64_t> order ABSL_GUARDED_BY(mutex);
};

}  // namespace

std::shared_ptr<const Synthetic> EncodingOf(uint64_t number) {
  static Kept* const kept = new Kept;
  {
    MutexLock lock(&kept->mutex);
    const auto found = kept->made.find(number);
    if (found != kept->made.end()) return found->second;
  }
  auto made = std::make_shared<const Synthetic>(Make(number));
  MutexLock lock(&kept->mutex);
  const auto [at, inserted] = kept->made.emplace(number, std::move(made));
  if (!inserted) return at->second;
  kept->order.push_back(number);
  const auto result = at->second;
  if (kept->order.size() > kKeptEncodings) {
    kept->made.erase(kept->order.front());
    kept->order.pop_front();
  }
  return result;
}

void TrafficCounts::Add(const std::string& what) {
  MutexLock lock(&mutex_);
  ++counts_[what];
}

int64_t TrafficCounts::of(const std::string& what) const {
  MutexLock lock(&mutex_);
  const auto found = counts_.find(what);
  return found == counts_.end() ? 0 : found->second;
}

int64_t TrafficCounts::failed() const {
  MutexLock lock(&mutex_);
  int64_t failed = 0;
  for (const auto& [what, count] : counts_) {
    if (!absl::EndsWith(what, " ok") && what != "read of what was removed") failed += count;
  }
  return failed;
}

std::string TrafficCounts::Text() const {
  MutexLock lock(&mutex_);
  std::string text;
  for (const auto& [what, count] : counts_) absl::StrAppend(&text, text.empty() ? "" : ", ", what, " ", count);
  return text;
}

Traffic::Traffic(store::Store* store, Journal* journal, TrafficCounts* counts, const TrafficOptions& options)
    : store_(store),
      journal_(journal),
      counts_(counts),
      options_(options),
      random_(options.seed),
      next_(options.first) {
  while (own_.size() < options_.recycle) {
    own_.emplace_back(NewNumber(), false);
    EncodingOf(own_.back().first);
  }
}

absl::Status Traffic::Step() {
  const int64_t removals = journal_->removals();
  const std::vector<uint64_t> known = journal_->known();
  const double draw = static_cast<double>(random_() >> 11) / static_cast<double>(uint64_t{1} << 53);
  const uint64_t which = random_();
  if (draw < options_.writes) {
    // Occasionally an encoding that it has written before.
    if (options_.recycle == 0 && next_ > options_.first && which % 8 == 0) {
      return Write(options_.first + which / 8 % (next_ - options_.first));
    }
    if (options_.recycle == 0) return Write(NewNumber());
    KVLINK_ASSIGN_OR_RETURN(const uint64_t number, Recycled());
    return Write(number);
  }
  if (known.empty()) {
    absl::SleepFor(absl::Milliseconds(1));
    return absl::OkStatus();
  }
  return ReadSince(known[which % known.size()], removals);
}

uint64_t Traffic::NewNumber() {
  while (options_.large_only && !IsLarge(next_)) ++next_;
  return next_++;
}

absl::StatusOr<uint64_t> Traffic::Recycled() {
  auto [number, written] = own_.front();
  own_.pop_front();
  if (written) {
    // From here on no promise applies to it, whether or not the removal succeeds.
    journal_->Removed(number);
    const absl::Time start = SteadyNow();
    const absl::Status removed = store_->Remove(kTrafficNamespace, EncodingOf(number)->manifest.identity);
    KVLINK_RETURN_IF_ERROR(Judge("remove", number, removed, start));
    // A failed removal may still take effect at any time, so the number is not used again.
    if (!removed.ok()) number = NewNumber();
  }
  own_.emplace_back(number, true);
  return number;
}

absl::Status Traffic::Write(uint64_t number) {
  const std::shared_ptr<const Synthetic> encoding = EncodingOf(number);
  journal_->Started(number);
  const absl::Time start = SteadyNow();
  const auto put = store_->Put(kTrafficNamespace, encoding->manifest, encoding->spans(), start + options_.deadline);
  KVLINK_RETURN_IF_ERROR(Judge("write", number, put.status(), start));
  if (!put.ok()) return absl::OkStatus();
  if (put->etag != encoding->manifest.etag) return absl::InternalError("a write was acknowledged with another etag");
  journal_->Acknowledged(number);
  return absl::OkStatus();
}

absl::Status Traffic::Read(uint64_t number) { return ReadSince(number, journal_->removals()); }

absl::Status Traffic::ReadSince(uint64_t number, int64_t removals) {
  const std::shared_ptr<const Synthetic> encoding = EncodingOf(number);
  const absl::Time start = SteadyNow();
  const absl::Status status = ReadAndCompare(store_, kTrafficNamespace, *encoding, nullptr, start + options_.deadline);
  if (absl::IsNotFound(status) && journal_->removals() != removals) {
    counts_->Add("read of what was removed");
    return absl::OkStatus();
  }
  return Judge("read", number, status, start);
}

absl::Status Traffic::Judge(const std::string& call, uint64_t number, const absl::Status& status, absl::Time start) {
  const absl::Duration took = SteadyNow() - start;
  // A read begins with a lookup, which has a deadline of its own.
  const absl::Duration allowed = call == "read" ? 2 * options_.deadline : options_.deadline;
  if (took > allowed + kHangGuard) {
    return absl::InternalError(absl::StrCat(call, " of ", number, " took ", absl::FormatDuration(took),
                                            " and should have ended after ", absl::FormatDuration(allowed), ": ",
                                            status.ToString()));
  }
  counts_->Add(absl::StrCat(call, status.ok() ? " ok" : absl::StrCat(" ", absl::StatusCodeToString(status.code()))));
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return absl::OkStatus();
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:  // of a read: its mapped lease lapsed
      // The store is unreachable or busy: no need to retry at once.
      absl::SleepFor(absl::Milliseconds(2));
      return absl::OkStatus();
    case absl::StatusCode::kNotFound:
      if (call == "read" && options_.evictions) return absl::OkStatus();
      break;
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kInvalidArgument:
      if (options_.corruption) return absl::OkStatus();
      break;
    default:
      break;
  }
  return absl::InternalError(absl::StrCat(call, " of ", number, " ended with ", status.ToString()));
}

TrafficThread::TrafficThread(store::Store* store, Journal* journal, const TrafficOptions& options)
    : traffic_(store, journal, &counts_, options), thread_("traffic", [this] {
        while (!stop_.load()) {
          outcome_ = traffic_.Step();
          if (outcome_.ok()) continue;
          going_.store(false);
          return;
        }
      }) {}

absl::Status TrafficThread::Stop() {
  stop_.store(true);
  thread_.Join();
  return outcome_;
}

bool TrafficThread::WaitForSuccesses(int64_t more, absl::Duration within) {
  const auto successes = [this] { return counts_.of("write ok") + counts_.of("read ok"); };
  const int64_t wanted = successes() + more;
  const absl::Time deadline = SteadyNow() + within;
  while (successes() < wanted && going() && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(2));
  return successes() >= wanted;
}

absl::Status WriteAll(store::Store* store, Journal* journal, uint64_t first, uint64_t count) {
  TrafficCounts counts;
  TrafficOptions options;
  options.deadline = kPatience;
  Traffic traffic(store, journal, &counts, options);
  for (uint64_t number = first; number < first + count; ++number) KVLINK_RETURN_IF_ERROR(traffic.Write(number));
  if (counts.failed() > 0) return absl::InternalError(absl::StrCat("not all was written: ", counts.Text()));
  return absl::OkStatus();
}

absl::Status CheckJournal(store::Store* store, const Journal& journal, bool evictions) {
  const Journal::Contents contents = journal.Read();
  for (const uint64_t number : contents.started) {
    const bool promised = contents.acknowledged.count(number) > 0;
    const absl::Status status = ReadAndCompare(store, kTrafficNamespace, *EncodingOf(number));
    if (status.ok() || (absl::IsNotFound(status) && (!promised || evictions))) continue;
    return absl::InternalError(
        absl::StrCat("encoding ", number, promised ? ", acknowledged: " : ", not acknowledged: ", status.ToString()));
  }
  KVLINK_ASSIGN_OR_RETURN(const store::VerifyReport report, store->Verify({}));
  if (!report.damaged.empty()) return absl::InternalError("verify found damage: " + report.damaged[0].what);
  if (!report.index_problems.empty()) return absl::InternalError("verify: " + report.index_problems[0]);
  KVLINK_ASSIGN_OR_RETURN(const store::StoreStats stats, store->Stats());
  if (stats.integrity_failures != 0) return absl::InternalError("the store met bytes that failed their checksum");
  if (stats.double_claims != 0) return absl::InternalError("a block was claimed twice");
  return absl::OkStatus();
}

}  // namespace kvlink::testing
