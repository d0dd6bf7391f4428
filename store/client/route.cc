// Two-step requests must not wait for a connection, and there may be a hundred nodes to connect to, so a few threads of
// the resources dial. At most one of them dials a given node for a given need; callers that ask meanwhile join its
// waiters.
#include "store/client/route.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/client/reachable.h"

namespace kvlink::store::client {
namespace {

constexpr size_t kMaxWaiting = 65536;  // for a connection to one node
constexpr absl::Duration kMinLook = absl::Milliseconds(10);
constexpr absl::Duration kAnswers = absl::Seconds(1);  // by then, a node that is there has answered

std::shared_ptr<ClientResources> ResourcesOf(const RemoteOptions& options) {
  if (options.resources != nullptr) return options.resources;
  ResourceOptions own;
  own.receive_bytes = options.receive_bytes;
  own.sending_bytes = options.sending_bytes;
  own.idle_memory = options.idle_memory;
  own.dials = 1;
  return NewClientResources(own);
}

}  // namespace

absl::Status EndOf(const absl::Status& status, const std::string& address, absl::Time deadline) {
  if (!absl::IsDeadlineExceeded(status) || SteadyNow() >= deadline) return status;
  return absl::UnavailableError(absl::StrCat("the node at ", address, " did not answer in time: ", status.message()));
}

// Shared with the dialling threads: the route may be gone before their turn comes.
struct Route::Dialling {
  Mutex mutex;
  CondVar changed;
  Route* route ABSL_GUARDED_BY(mutex) = nullptr;  // null: the route is gone
  int running ABSL_GUARDED_BY(mutex) = 0;
  std::vector<Done> waiting[2] ABSL_GUARDED_BY(mutex);  // per need; not empty: a thread will serve it
};

Route::Route(const RemoteOptions& options)
    : options_(options),
      resources_(ResourcesOf(options)),
      retries_(&resources_->retries(), &counters_),
      control_({options.address, options.key, options.name, options.tls, options.node_id}, &resources_->timer(),
               &retries_, &counters_),
      dialling_(std::make_shared<Dialling>()),
      idle_(std::make_unique<Alarm>(&resources_->timer(), [this] { return CloseIdle(); })) {
  requests_.placement = options.placement;
  {
    MutexLock lock(&dialling_->mutex);
    dialling_->route = this;
  }
  idle_->Set(CloseIdle());
}

Route::~Route() {
  idle_ = nullptr;
  {
    MutexLock lock(&dialling_->mutex);
    dialling_->route = nullptr;
    while (dialling_->running > 0) dialling_->changed.Wait(&dialling_->mutex);
  }
  // First the object that calls back, then the one it calls.
  std::unique_ptr<MappedReader> mapped;
  std::vector<std::unique_ptr<DataPath>> paths;
  {
    MutexLock lock(&mutex_);
    mapped = std::move(mapped_);
    path_ = nullptr;
    paths.swap(paths_);
  }
  mapped = nullptr;
  for (const auto& path : paths) path->channel().Close();
  resources_->verifier().Flush();
}

absl::Status Route::Establish(absl::Time deadline) {
  ReleasableMutexLock lock(&mutex_);
  while (establishing_) {
    if (!changed_.WaitUntil(&mutex_, deadline) && establishing_) {
      return absl::DeadlineExceededError("no connection to the node in time");
    }
  }
  if (established_) return absl::OkStatus();
  // Without the lock: this dials, and callers that only query the store must not wait for it.
  establishing_ = true;
  lock.Release();
  const absl::Status done = EndOf(EstablishOnce(deadline), options_.address, deadline);
  lock.Reacquire();
  establishing_ = false;
  established_ = done.ok();
  changed_.SignalAll();
  return done;
}

absl::Status Route::EstablishOnce(absl::Time deadline) {
  const absl::Time first = std::min(deadline, SteadyNow() + options_.connect_timeout);
  KVLINK_RETURN_IF_ERROR(CheckReachable(options_.address, first));
  KVLINK_RETURN_IF_ERROR(WithRetries(&retries_, first, [&] { return control_.Session(first).status(); }));
  const bool may_map = options_.transport == nullptr &&
                       ((options_.carrier == Carrier::kAuto && options_.map) || options_.carrier == Carrier::kMapped);
  if (may_map) {
    const absl::Status mapped = TryMapping();
    if (mapped.ok()) return mapped;
    if (options_.carrier == Carrier::kMapped) {
      return absl::UnavailableError(
          absl::StrCat(options_.address, ": its memory cannot be mapped: ", mapped.message()));
    }
    MutexLock lock(&mutex_);
    why_not_mapped_ = absl::StrCat("not mapped: ", mapped.message());
  }
  // Each carrier gets the time of a full attempt, however long the previous ones took.
  return Data(std::min(deadline, SteadyNow() + 2 * options_.connect_timeout)).status();
}

absl::Status Route::TryMapping() {
  KVLINK_ASSIGN_OR_RETURN(auto* const transport, resources_->Local());
  auto mapped = std::make_unique<MappedReader>(transport, &resources_->timer(), &control_, &counters_, &requests_,
                                               options_.connect_timeout);
  KVLINK_RETURN_IF_ERROR(mapped->Try(SteadyNow() + options_.connect_timeout));
  MutexLock lock(&mutex_);
  mapped_ = std::move(mapped);
  return absl::OkStatus();
}

MappedReader* Route::mapped() const {
  MutexLock lock(&mutex_);
  return mapped_.get();
}

absl::StatusOr<DataPath*> Route::Data(absl::Time deadline) {
  ReleasableMutexLock lock(&mutex_);
  while (choosing_) {
    if (!changed_.WaitUntil(&mutex_, deadline) && choosing_) {
      return absl::DeadlineExceededError("no data connection to the node in time");
    }
  }
  if (path_ != nullptr) return path_;
  choosing_ = true;
  lock.Release();
  std::vector<std::string> problems;
  const auto chosen = ChoosePath(deadline, nullptr, &problems);
  lock.Reacquire();
  choosing_ = false;
  changed_.SignalAll();
  if (!chosen.ok()) return chosen.status();
  problems_ = std::move(problems);
  path_ = *chosen;
  chosen_in_ = control_.number();
  return path_;
}

DataPath* Route::Reconsider(DataPath* path, const absl::Status& tried, absl::Time deadline) {
  const std::vector<Carrier> carriers = Carriers();
  const uint64_t session = control_.number();
  if (carriers.size() < 2 || session == 0) return path;
  if (tried.ok() && path->name() == CarrierName(carriers[0])) return path;
  // With RetryAfter nothing was tried: the path is reconsidered at most once for each attempt to connect.
  if (!tried.ok() && (!absl::IsUnavailable(tried) || RetryAfter(tried).has_value())) return path;
  {
    MutexLock lock(&mutex_);
    if (choosing_ || improving_ || path_ != path || (tried.ok() && chosen_in_ == session)) return path_;
    (tried.ok() ? improving_ : choosing_) = true;
  }
  std::vector<std::string> problems;
  absl::StatusOr<DataPath*> chosen = path;
  const auto soon = [deadline] { return std::min(deadline, SteadyNow() + kAnswers); };
  if (tried.ok()) {
    chosen = ChoosePath(soon(), nullptr, &problems);
  } else if (control_.Renew(session, soon()).ok()) {  // otherwise the node is to blame, not the carrier
    problems.push_back(absl::StrCat(path->name(), ": ", tried.message()));
    chosen = ChoosePath(soon(), path, &problems);
  }
  MutexLock lock(&mutex_);
  choosing_ = improving_ = false;
  changed_.SignalAll();
  if (tried.ok() || chosen.ok()) chosen_in_ = session;
  if (chosen.ok() && *chosen != path) {
    path_ = *chosen;
    problems_ = std::move(problems);
  }
  return path_;
}

std::vector<Carrier> Route::Carriers() const {
  if (options_.transport != nullptr) return {options_.carrier};
  if (options_.carrier != Carrier::kAuto && options_.carrier != Carrier::kMapped) return {options_.carrier};
  if (options_.tls.enabled()) return {Carrier::kGrpc};
  return {Carrier::kUcx, Carrier::kGrpc};
}

absl::StatusOr<DataPath*> Route::ChoosePath(absl::Time deadline, const DataPath* except,
                                            std::vector<std::string>* problems) {
  const std::vector<Carrier> carriers = Carriers();
  if (options_.tls.enabled() && options_.carrier != carriers[0]) {
    problems->emplace_back("ucx does not encrypt, so it is used only if it is named");
  }
  for (const Carrier carrier : carriers) {
    DataPath* path = nullptr;
    {
      MutexLock lock(&mutex_);
      for (const auto& known : paths_) {
        if (known->name() == CarrierName(carrier)) path = known.get();
      }
    }
    if (path != nullptr && path == except) continue;
    std::unique_ptr<DataPath> made;
    absl::Status status;
    if (path == nullptr) {
      auto created = DataPath::Create(carrier, options_, resources_.get(), &control_, &counters_, &requests_);
      status = created.status();
      if (created.ok()) made = *std::move(created);
      path = made.get();
    }
    if (path != nullptr) status = path->channel().Acquire(deadline).status();
    if (status.ok()) {
      MutexLock lock(&mutex_);
      if (made != nullptr) paths_.push_back(std::move(made));
      return path;
    }
    if (absl::IsPermissionDenied(status) || absl::IsUnauthenticated(status)) return status;
    problems->push_back(
        absl::StrCat(path == nullptr ? "" : path->name(), path == nullptr ? "" : ": ", status.message()));
  }
  return absl::UnavailableError(
      absl::StrCat("no data connection to the node at ", options_.address, ": ", absl::StrJoin(*problems, "; ")));
}

absl::StatusOr<Route::Opened> Route::Acquire(Need need, absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(Establish(deadline));
  MappedReader* const reader = need == Need::kMessages ? mapped() : nullptr;
  if (reader != nullptr) {
    auto connection = reader->channel().Acquire(deadline);
    if (connection.ok()) return Opened{nullptr, *std::move(connection)};
    if (options_.carrier == Carrier::kMapped) return connection.status();
  }
  KVLINK_ASSIGN_OR_RETURN(DataPath * path, Data(deadline));
  auto connection = path->channel().Acquire(deadline);
  if (DataPath* const other = Reconsider(path, connection.status(), deadline); other != path) {
    path = other;
    connection = path->channel().Acquire(deadline);
  }
  KVLINK_RETURN_IF_ERROR(connection.status());
  return Opened{path, *std::move(connection)};
}

std::optional<Route::Opened> Route::Present(Need need) {
  MappedReader* reader = nullptr;
  DataPath* path = nullptr;
  {
    MutexLock lock(&mutex_);
    if (!established_) return std::nullopt;
    reader = need == Need::kMessages ? mapped_.get() : nullptr;
    path = path_;
  }
  if (reader == nullptr && path == nullptr) return std::nullopt;
  Opened opened{reader == nullptr ? path : nullptr, nullptr};
  opened.connection = (reader == nullptr ? path->channel() : reader->channel()).Present();
  if (opened.connection == nullptr) return std::nullopt;
  return opened;
}

void Route::Dial(Need need, Done done) {
  {
    MutexLock lock(&dialling_->mutex);
    std::vector<Done>& waiting = dialling_->waiting[static_cast<int>(need)];
    if (waiting.size() < kMaxWaiting) {
      waiting.push_back(std::move(done));
      if (waiting.size() > 1) return;
      done = nullptr;
    }
  }
  if (done != nullptr)
    return done(absl::ResourceExhaustedError("too many requests are waiting for a connection to the node"));
  const absl::Status added = resources_->dials().Add(
      {.work = [dialling = dialling_, need](const absl::Status& turn) { RunDial(dialling, need, turn); },
       .owner = options_.address});
  if (!added.ok()) RunDial(dialling_, need, added);
}

void Route::RunDial(const std::shared_ptr<Dialling>& dialling, Need need, const absl::Status& turn) {
  Route* route = nullptr;
  {
    MutexLock lock(&dialling->mutex);
    route = dialling->route;
    if (route != nullptr) ++dialling->running;
  }
  absl::StatusOr<Opened> opened = absl::UnavailableError("the store is closing");
  if (!turn.ok()) {
    opened = turn;
  } else if (route != nullptr) {
    opened = route->Acquire(need, SteadyNow() + 2 * route->options_.connect_timeout);
  }
  std::vector<Done> waiting;
  {
    MutexLock lock(&dialling->mutex);
    waiting.swap(dialling->waiting[static_cast<int>(need)]);
  }
  // Those of a destroyed route have already been abandoned.
  for (const Done& done : waiting) {
    if (route != nullptr) done(opened);
  }
  opened = absl::UnavailableError("");
  waiting.clear();
  if (route == nullptr) return;
  MutexLock lock(&dialling->mutex);
  --dialling->running;
  dialling->changed.SignalAll();
}

absl::Status Route::Checked(const NodeConnection& connection, absl::Status status) {
  if (!absl::IsUnauthenticated(status)) return status;
  control_.Ended(connection.session());
  return absl::UnavailableError("the session has ended");
}

absl::Time Route::CloseIdle() {
  std::vector<NodeChannel*> channels;
  {
    MutexLock lock(&mutex_);
    if (mapped_ != nullptr) channels.push_back(&mapped_->channel());
    for (const auto& path : paths_) channels.push_back(&path->channel());
    if (choosing_ || improving_ || establishing_) return SteadyNow() + kMinLook + options_.idle_connection / 2;
  }
  const absl::Time now = SteadyNow(), before = now - options_.idle_connection;
  bool all = true;
  for (NodeChannel* const channel : channels) all = channel->CloseIdle(before) && all;
  if (all) control_.EndIdle(before);
  return now + kMinLook + options_.idle_connection / 2;
}

std::string Route::ReadCarrier() const {
  MutexLock lock(&mutex_);
  if (mapped_ != nullptr) return "mapped";
  return path_ == nullptr ? "nothing" : path_->name();
}

std::string Route::WhyNoBetter() const {
  MutexLock lock(&mutex_);
  std::vector<std::string> why = problems_;
  if (!why_not_mapped_.empty()) why.insert(why.begin(), why_not_mapped_);
  return absl::StrJoin(why, "; ");
}

void Route::FillMemory(RemoteCounters* counters) const {
  MutexLock lock(&mutex_);
  if (path_ == nullptr) return;
  counters->receive_bytes_used = path_->memory().receive_memory().used();
  counters->receive_bytes = path_->memory().receive_memory().bytes();
  counters->sending_bytes = path_->memory().sending().bytes();
}

}  // namespace kvlink::store::client
