// An encoding and a document go by one number, from which everything follows; so a deletion of the document drops that
// encoding and no other.
#include "tests/integration/cluster/cluster_clients.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "tests/integration/traffic.h"

namespace kvlink::testing {
namespace {

constexpr char kNamespace[] = "history";
constexpr absl::Duration kDeadline = absl::Seconds(10), kPause = absl::Milliseconds(3);
constexpr int kClients = 3, kReader = kClients;  // the reader is that of ReadAll
constexpr size_t kRecent = 400;                  // of what was written, that is read

bool UsesDocuments(int client) { return client > 0; }
std::string IdOf(uint64_t number) { return absl::StrCat("document-", number); }
bool IsAbsent(const absl::Status& status) { return absl::IsNotFound(status); }

}  // namespace

int64_t ClusterClients::Now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

ClusterClients::ClusterClients(const ClusterProcesses& cluster, uint64_t seed) : seed_(seed) {
  const absl::Status opened = Open(cluster);
  EXPECT_TRUE(opened.ok()) << opened;
}

absl::Status ClusterClients::Open(const ClusterProcesses& cluster) {
  store::cluster::MembershipOptions members;
  KVLINK_ASSIGN_OR_RETURN(members.address, store::cluster::ParseClusterAddress(cluster.name()));
  KVLINK_ASSIGN_OR_RETURN(membership_, store::cluster::Membership::Open(std::move(members), SteadyNow() + kDeadline));
  store::database::DatabaseOptions database;
  database.connection = membership_->view()->settings.database;
  database.cluster_id = membership_->view()->settings.id;
  KVLINK_ASSIGN_OR_RETURN(catalog_, store::database::DatabaseCatalog::Open(database));
  store::cluster::ReplicatedOptions replicated;
  replicated.node.key = cluster.key();
  replicated.node.tls.insecure = true;
  replicated.node.name = "history";
  KVLINK_ASSIGN_OR_RETURN(store_, store::cluster::OpenReplicated(membership_, catalog_, replicated));
  return absl::OkStatus();
}

ClusterClients::~ClusterClients() { Stop(); }

void ClusterClients::Start() {
  if (store_ == nullptr) return;
  stop_.store(false);
  for (int i = 0; i < kClients; ++i) threads_.emplace_back("cluster-client", [this, i] { Run(i); });
}

void ClusterClients::Stop() {
  stop_.store(true);
  threads_.clear();
}

std::vector<Timing> ClusterClients::timings() const {
  MutexLock lock(&mutex_);
  return timings_;
}

void ClusterClients::Run(int client) {
  std::mt19937_64 random(seed_ * 1000 + static_cast<uint64_t>(client));
  while (!stop_.load()) {
    std::vector<uint64_t> recent;
    {
      MutexLock lock(&mutex_);
      recent.assign(written_.end() - static_cast<int64_t>(std::min(kRecent, written_.size())), written_.end());
    }
    const uint64_t dice = random() % 100;
    if (recent.size() < 8 || dice < 20) {
      Write(client, next_.fetch_add(1));
    } else if (dice < 70 || !UsesDocuments(client)) {
      Read(client, recent[random() % recent.size()]);
    } else if (dice < 95) {
      GetDocument(client, recent[random() % recent.size()]);
    } else {
      Delete(client, recent[random() % recent.size()]);
    }
    absl::SleepFor(kPause);
  }
}

Call ClusterClients::Begin(int client, CallKind kind, uint64_t key) const {
  Call call;
  call.client = client;
  call.kind = kind;
  call.key = key;
  call.begun = Now();
  return call;
}

// What failed may have been carried out, or may still be: a call that says that nothing was written does not exist for
// replicas of which some took it.
void ClusterClients::End(Call call, const absl::Status& status) {
  call.ended = Now();
  call.ending = status.ok() ? Ending::kOk : IsAbsent(status) ? Ending::kAbsent : Ending::kUnknown;
  history_.Add(call);
  MutexLock lock(&mutex_);
  timings_.push_back({call.kind, call.begun, call.ended, status.ok() || IsAbsent(status) ? "" : status.ToString()});
}

void ClusterClients::Write(int client, uint64_t number) {
  const auto encoding = EncodingOf(number);
  Call put = Begin(client, CallKind::kPut, number);
  put.value = number;
  const auto spans = encoding->spans();
  const absl::Status written = store_->Put(kNamespace, encoding->manifest, spans, SteadyNow() + kDeadline).status();
  End(put, written);
  if (!written.ok()) return;
  if (UsesDocuments(client)) {
    Call document = Begin(client, CallKind::kPutDocument, number);
    const std::vector<store::DocumentPut> puts = {{IdOf(number), EntryOf({encoding.get()}, 0)}};
    auto outcome = store_->PutDocuments(kNamespace, puts);
    const absl::Status status = outcome.ok() ? (*outcome)[0].status() : outcome.status();
    if (status.ok()) document.value = *(*outcome)[0];
    End(document, status);
  }
  MutexLock lock(&mutex_);
  written_.push_back(number);
}

void ClusterClients::Read(int client, uint64_t number) {
  const auto encoding = EncodingOf(number);
  Call read = Begin(client, CallKind::kRead, number);
  const absl::Status status = ReadAndCompare(store_.get(), kNamespace, *encoding, nullptr, SteadyNow() + kDeadline);
  // Wrong bytes are a value that nobody wrote.
  read.value = absl::IsInternal(status) ? ~number : number;
  End(read, absl::IsInternal(status) ? absl::OkStatus() : status);
}

void ClusterClients::GetDocument(int client, uint64_t number) {
  Call get = Begin(client, CallKind::kGetDocument, number);
  const std::vector<std::string> ids = {IdOf(number)};
  const auto found = store_->GetDocuments(kNamespace, ids);
  const absl::Status status = found.ok() ? (*found)[0].status() : found.status();
  if (status.ok()) get.value = (*found)[0]->generation;
  End(get, status);
}

void ClusterClients::Delete(int client, uint64_t number) {
  // From now on the encoding may go at any time.
  Call remove = Begin(client, CallKind::kRemove, number);
  remove.ended = remove.begun;
  remove.ending = Ending::kUnknown;
  history_.Add(remove);
  Call deletion = Begin(client, CallKind::kDeleteDocument, number);
  const std::vector<store::DocumentDeletion> deletions = {{IdOf(number), 0}};
  const auto outcome = store_->DeleteDocuments(kNamespace, deletions);
  End(deletion, outcome.ok() ? (*outcome)[0] : outcome.status());
}

void ClusterClients::ReadAll() {
  std::vector<uint64_t> written;
  {
    MutexLock lock(&mutex_);
    written = written_;
  }
  for (const uint64_t number : written) {
    Read(kReader, number);
    GetDocument(kReader, number);
  }
}

}  // namespace kvlink::testing
