// A thread looks at the view a few times a second, publishes what is hot, and completes a join or drain of this member
// once the published progress allows it. Completing is conditional on the epoch at which it was decided: if a member
// joins meanwhile, whose slots no progress covers yet, it is decided again.
#include "store/cluster/node/member_node.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/cluster/members/administration.h"
#include "store/cluster/node/binding.h"
#include "store/cluster/node/figures.h"
#include "transport/address.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(300), kCallTimeout = absl::Seconds(5);

bool IsWildcard(absl::string_view host) { return host.empty() || host == "0.0.0.0" || host == "::" || host == "*"; }

// The address to advertise. Checked before the node starts: everything but the port is known by then.
absl::StatusOr<transport::Address> AdvertisedHost(const MemberNodeOptions& options) {
  const bool named = !options.advertise.empty();
  auto address = transport::ParseAddress(named ? options.advertise : options.node.control_address);
  KVLINK_RETURN_IF_ERROR(Annotate(address.status(), named ? "the advertised address" : "the listening address"));
  if (!IsWildcard(address->host)) return address;
  return absl::InvalidArgumentError(
      absl::StrCat(named ? options.advertise : options.node.control_address,
                   " is a wildcard, which other members cannot connect to: ",
                   named ? "name one address" : "name one address with --advertise HOST:PORT"));
}

// A sink that two logs can use at once.
node::LogSink Shared(node::LogSink sink) {
  if (!sink) return sink;
  struct State {
    explicit State(node::LogSink sink) : sink(std::move(sink)) {}
    Mutex mutex;
    const node::LogSink sink;
  };
  return [state = std::make_shared<State>(std::move(sink))](absl::string_view line) {
    MutexLock lock(&state->mutex);
    state->sink(line);
  };
}

uint32_t DefaultWeight(int64_t capacity_bytes) {
  return static_cast<uint32_t>(std::clamp<int64_t>(capacity_bytes >> 30, 1, kMaxWeight));
}

// Refuses a directory that holds encodings but is bound to no cluster: which drops it missed is unknown, so a cluster
// with a catalog would remove all of them. A directory at a position of this cluster's drop log belongs to the cluster
// and has only lost its file.
absl::Status CheckUnbound(const std::string& directory, const ClusterSettings& settings, engine::Engine* engine) {
  const auto namespaces = engine->Stats().namespaces;
  const int64_t encodings = std::accumulate(namespaces.begin(), namespaces.end(), int64_t{0},
                                            [](int64_t sum, const auto& one) { return sum + one.encodings; });
  if (encodings == 0 || settings.database.empty() || engine->dropped().log == settings.id) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the store at ", directory, " holds ", encodings, " encodings from outside cluster '", settings.name,
      "', whose catalog names none of them, so that it would remove them: use an empty directory, and move the "
      "documents with kvlink catalog"));
}

bool Contains(absl::Span<const uint16_t> owners, uint16_t member) {
  return std::find(owners.begin(), owners.end(), member) != owners.end();
}

std::optional<uint16_t> IndexOf(const View& view, const NodeId& id) {
  const auto& members = view.placement.members();
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].node_id == id) return static_cast<uint16_t>(i);
  }
  return std::nullopt;
}

// Removes members that have published complete progress at the view's epoch.
void RemoveComplete(const View& view, const std::map<NodeId, ProgressRecord>& progress, std::set<uint16_t>* awaited) {
  std::erase_if(*awaited, [&](uint16_t member) {
    const auto found = progress.find(view.placement.members()[member].node_id);
    return found != progress.end() && found->second.epoch == view.placement.epoch() && found->second.complete();
  });
}

}  // namespace

std::set<uint16_t> AwaitedByMove(const View& view, const std::map<NodeId, ProgressRecord>& progress) {
  std::set<uint16_t> awaited;
  ForEachMove(view.placement.current(), view.placement.next(), [&](const Move& move) {
    if (move.added.has_value()) awaited.insert(*move.added);
    return true;
  });
  RemoveComplete(view, progress, &awaited);
  return awaited;
}

std::set<uint16_t> AwaitedByDrain(const View& view, const std::map<NodeId, ProgressRecord>& progress,
                                  const NodeId& draining) {
  const Placement& placement = view.placement;
  const std::optional<uint16_t> self = IndexOf(view, draining);
  std::set<uint16_t> awaited;
  for (int slot = 0; self.has_value() && slot < kSlots; ++slot) {
    const absl::Span<const uint16_t> current = placement.current().Owners(slot);
    if (!Contains(current, *self)) continue;
    const absl::Span<const uint16_t> next = placement.next().Owners(slot);
    // A dead owner that has the slot already is not awaited if any next owner is alive.
    const bool kept = std::any_of(next.begin(), next.end(), [&](uint16_t owner) { return view.alive(owner); });
    for (const uint16_t owner : next) {
      if (!Contains(current, owner) || view.alive(owner) || !kept) awaited.insert(owner);
    }
  }
  RemoveComplete(view, progress, &awaited);
  return awaited;
}

absl::StatusOr<std::unique_ptr<MemberNode>> MemberNode::Start(MemberNodeOptions options, absl::Time deadline) {
  options.node.log = Shared(std::move(options.node.log));
  std::unique_ptr<MemberNode> node(new MemberNode(options.node.log));
  KVLINK_RETURN_IF_ERROR(node->Open(std::move(options), deadline));
  return node;
}

absl::Status MemberNode::Open(MemberNodeOptions options, absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(ValidateZone(options.zone));
  if (options.weight.has_value()) KVLINK_RETURN_IF_ERROR(ValidateWeight(*options.weight));
  KVLINK_RETURN_IF_ERROR(AdvertisedHost(options).status());
  ownership_ = std::make_shared<MemberOwnership>();
  const auto on_view = [ownership = ownership_](const std::shared_ptr<const View>& view) { ownership->Update(view); };
  KVLINK_ASSIGN_OR_RETURN(membership_, Membership::Open({options.cluster, std::nullopt, events(), on_view}, deadline));
  KVLINK_RETURN_IF_ERROR(CheckBinding(options.node.directory));
  Show([this] { return MembershipFigures(*membership_); });
  options.node.figures = [this] { return Figures(); };
  options.node.ownership = ownership_;
  options.node.admits = false;
  const ClusterSettings settings = membership_->view()->settings;
  const std::string directory = options.node.directory, build = options.node.version;
  KVLINK_ASSIGN_OR_RETURN(node_, node::Node::Start(std::move(options.node)));
  // This process has the store open, so no other binds it meanwhile.
  KVLINK_ASSIGN_OR_RETURN(const auto binding, ReadBinding(directory));
  if (!binding.has_value()) {
    KVLINK_RETURN_IF_ERROR(CheckUnbound(directory, settings, node_->engine()));
    KVLINK_RETURN_IF_ERROR(WriteBinding(directory, {settings.id, settings.name}));
  }
  id_ = node_->engine()->id();
  ownership_->SetNode(id_);
  ShareLimits();
  const engine::Engine::Statistics statistics = node_->engine()->Stats();
  const int64_t documents = std::accumulate(statistics.documents.begin(), statistics.documents.end(), int64_t{0},
                                            [](int64_t sum, const auto& one) { return sum + one.second; });
  if (documents > 0) {
    Log(Severity::kWarning, "documents_not_served",
        absl::StrCat(
            "the store's own catalog has ", documents,
            " documents from before it joined, which the cluster does not see: move them with kvlink catalog"));
  }
  const uint32_t capacity = DefaultWeight(statistics.capacity_bytes);
  if (!options.weight.has_value()) options.weight = capacity;
  KVLINK_ASSIGN_OR_RETURN(RegistrationOptions registration, MakeRegistration(options, build));
  KVLINK_ASSIGN_OR_RETURN(registration.entered, ReadEntered(directory));
  registration.keep = [directory](uint64_t entered) { return WriteEntered(directory, entered); };
  // First, because companions assume that what others know of the node refers to this directory.
  KVLINK_RETURN_IF_ERROR(Registration::AwaitPlace(membership_.get(), registration, deadline));
  KVLINK_RETURN_IF_ERROR(StartCompanions(options, deadline));
  // The companions have removed what was dropped while the node was away.
  node_->Admit();
  KVLINK_RETURN_IF_ERROR(Register(std::move(registration), deadline));
  // A database that was set meanwhile is in this view, which is as recent as the entry; companions use the one before.
  if (membership_->view()->settings.database != settings.database) {
    return absl::AbortedError(
        absl::StrCat("the database of cluster '", settings.name,
                     "' was changed while this node started: start it again, to use the new one"));
  }
  CheckWeight(capacity);
  for (const auto& companion : companions_) companion->Start();
  hot_policy_ = std::make_unique<HotPolicy>(options.hot);
  thread_ = Thread("cluster-state", [this] { Run(); });
  return absl::OkStatus();
}

absl::Status MemberNode::CheckBinding(const std::string& directory) const {
  KVLINK_ASSIGN_OR_RETURN(const auto binding, ReadBinding(directory));
  const ClusterSettings settings = membership_->view()->settings;
  if (!binding.has_value() || binding->cluster_id == settings.id) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the store at ", directory, " belongs to cluster '", binding->cluster_name, "' (",
                   IdHex(binding->cluster_id), "), not to '", settings.name, "' (", IdHex(settings.id), ") of etcd at ",
                   membership_->connection()->ToString(), ": name that cluster, or an empty directory"));
}

absl::Status MemberNode::StartCompanions(const MemberNodeOptions& options, absl::Time deadline) {
  const CompanionContext context{node_->engine(),
                                 membership_.get(),
                                 ownership_.get(),
                                 id_,
                                 [this](const ProgressRecord& progress) { Publish(progress); },
                                 [this](const std::vector<HotName>& held) { Hold(held); },
                                 events()};
  for (const MakeCompanion& make : options.companions) {
    KVLINK_ASSIGN_OR_RETURN(auto companion, make(context));
    companions_.push_back(std::move(companion));
    KVLINK_RETURN_IF_ERROR(companions_.back()->Prepare(deadline));
    Show([companion = companions_.back().get()] { return companion->Figures(); });
  }
  return absl::OkStatus();
}

absl::StatusOr<RegistrationOptions> MemberNode::MakeRegistration(const MemberNodeOptions& options,
                                                                 const std::string& build) {
  RegistrationOptions registration;
  registration.node_id = id_;
  registration.incarnation = node_->engine()->incarnation();
  // The port is known only now.
  KVLINK_ASSIGN_OR_RETURN(const transport::Address listens, transport::ParseAddress(node_->addresses().control));
  transport::Address address = listens;
  if (!options.advertise.empty()) {
    KVLINK_ASSIGN_OR_RETURN(address, transport::ParseAddress(options.advertise));
    if (address.port == 0) address.port = listens.port;
  }
  registration.record.address = address.ToString();
  // A name may lead to each of two machines from itself, as after one was cloned.
  const auto numeric = transport::Resolve(listens);
  registration.listens_there = registration.record.address == listens.ToString() && numeric.ok() &&
                               numeric->ToAddress().ToString() == listens.ToString();
  registration.record.zone = options.zone;
  registration.record.weight = *options.weight;
  registration.record.build = build;
  registration.record.protocol = SpokenProtocols();
  registration.ttl = options.ttl;
  registration.events = events();
  return registration;
}

absl::Status MemberNode::Register(RegistrationOptions registration, absl::Time deadline) {
  const std::string address = registration.record.address;
  KVLINK_ASSIGN_OR_RETURN(registration_, Registration::Start(membership_.get(), std::move(registration), deadline));
  Show([this] { return LeaseFigures(registration_->lease_held()); });
  const std::shared_ptr<const View> view = membership_->view();
  Log(Severity::kInfo, "member",
      absl::StrCat("node ", IdHex(id_), " at ", address, " is one of ", view->status.size(), " members of cluster '",
                   view->settings.name, "' (", IdHex(view->settings.id), ") at epoch ", view->placement.epoch()));
  return absl::OkStatus();
}

// Warns if the weight exceeds the capacity: placement gives the node a share by its weight, and it evicts what it
// cannot hold.
void MemberNode::CheckWeight(uint32_t capacity) {
  const std::shared_ptr<const View> view = membership_->view();
  const std::optional<uint16_t> self = IndexOf(*view, id_);
  if (!self.has_value() || view->placement.members()[*self].weight <= capacity) return;
  Log(Severity::kWarning, "weight_above_capacity",
      absl::StrCat(
          "the member has weight ", view->placement.members()[*self].weight, ", but a capacity of ", capacity,
          " GiB: if weights are in GiB, as by default, it is assigned more than it can store; lower its weight "
          "with kvlink members weight"));
}

MemberNode::~MemberNode() { Leave(); }

void MemberNode::Leave() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    wake_.SignalAll();
  }
  thread_.Join();
  {
    MutexLock lock(&figures_mutex_);
    if (!figures_.empty()) figures_.erase(figures_.begin() + 1, figures_.end());
  }
  const std::optional<absl::Status> how = ended();
  const bool left = how.has_value() && how->ok();
  for (auto it = companions_.rbegin(); it != companions_.rend(); ++it) (*it)->Stop(left);
  while (!companions_.empty()) companions_.pop_back();
  registration_ = nullptr;
}

std::optional<absl::Status> MemberNode::ended() const {
  return registration_ == nullptr ? std::nullopt : registration_->ended();
}

void MemberNode::Publish(const ProgressRecord& progress) {
  registration_->Publish(progress);
  MutexLock lock(&mutex_);
  progress_ = progress;
  wake_.SignalAll();
}

void MemberNode::Hold(const std::vector<HotName>& held) {
  MutexLock lock(&mutex_);
  held_ = held;
  wake_.SignalAll();
}

void MemberNode::PublishHot() {
  const absl::Time now = SteadyNow();
  HotRecord hot;
  hot.read = hot_policy_->Look(node_->read_rates().Now(now), *membership_->view(), now);
  {
    MutexLock lock(&mutex_);
    hot.held = held_;
  }
  if (hot == published_hot_) return;
  registration_->Publish(hot);
  published_hot_ = std::move(hot);
}

void MemberNode::Log(Severity severity, absl::string_view event, absl::string_view what) {
  const auto level = severity == Severity::kInfo      ? node::Log::Level::kInfo
                     : severity == Severity::kWarning ? node::Log::Level::kWarning
                                                      : node::Log::Level::kError;
  log_.Write(level, event, {{"what", std::string(what)}});
}

EventSink MemberNode::events() {
  return [this](Severity severity, absl::string_view event, absl::string_view what) { Log(severity, event, what); };
}

// Namespace limits apply to the whole cluster, and the node's share of them follows the slots it owns. While it is not
// a member, as after etcd went back, it keeps its last share. The slots come first, since a smaller share evicts at
// once.
void MemberNode::ShareLimits() {
  const std::optional<double> share = ownership_->share();
  const auto owned = ownership_->owned();
  if (!share.has_value() || owned == nullptr) return;
  node_->engine()->SetOwnedSlots(*owned);
  node_->engine()->SetShareOfLimits(*share);
}

void MemberNode::Show(node::FiguresBeside figures) {
  MutexLock lock(&figures_mutex_);
  figures_.push_back(std::move(figures));
}

std::vector<node::Figure> MemberNode::Figures() const {
  std::vector<node::Figure> all;
  MutexLock lock(&figures_mutex_);
  for (const node::FiguresBeside& some : figures_) absl::c_move(some(), std::back_inserter(all));
  return all;
}

// Completes a join, a drain or a move of this member if it is ready.
absl::Status MemberNode::Step() {
  const std::shared_ptr<const View> view = membership_->view();
  const std::optional<uint16_t> self = IndexOf(*view, id_);
  if (!self.has_value()) return absl::OkStatus();
  const uint64_t epoch = view->placement.epoch();
  const std::vector<Member>& members = view->placement.members();
  const MemberState state = members[*self].state;
  if (state == MemberState::kDraining) return CompleteOwnDrain(*view);
  if (members[*self].former.has_value()) {
    if (!NoneAwaited(*view, AwaitedByMove(*view, membership_->progress()), "move_waits")) return absl::OkStatus();
    return CompleteMove(membership_->connection(), id_, epoch, SteadyNow() + kCallTimeout).status();
  }
  awaited_.clear();
  const bool held_up = absl::c_any_of(members, [](const Member& one) { return HoldsUpJoins(one.state, one.former); });
  if (state != MemberState::kJoining || held_up) return absl::OkStatus();
  std::optional<ProgressRecord> progress;
  {
    MutexLock lock(&mutex_);
    progress = progress_;
  }
  if (!progress.has_value() || progress->epoch != epoch || !progress->complete()) return absl::OkStatus();
  return CompleteJoin(membership_->connection(), id_, epoch, SteadyNow() + kCallTimeout).status();
}

bool MemberNode::NoneAwaited(const View& view, const std::set<uint16_t>& awaited, absl::string_view event) {
  std::set<NodeId> ids;
  for (const uint16_t member : awaited) ids.insert(view.placement.members()[member].node_id);
  if (!ids.empty() && ids != awaited_) {
    Log(Severity::kInfo, event,
        absl::StrCat("waiting for ", absl::StrJoin(ids, ", ", [](std::string* out, const NodeId& id) {
                       absl::StrAppend(out, IdHex(id));
                     })));
  }
  if (!ids.empty()) awaited_ = std::move(ids);
  return awaited.empty();
}

absl::Status MemberNode::CompleteOwnDrain(const View& view) {
  if (!NoneAwaited(view, AwaitedByDrain(view, membership_->progress(), id_), "drain_waits")) return absl::OkStatus();
  const auto filled = [this, &view](const auto& progress) { return AwaitedByDrain(view, progress, id_).empty(); };
  return registration_->LeaveDrained(view.placement.epoch(), filled, SteadyNow() + kCallTimeout);
}

void MemberNode::Run() {
  absl::StatusCode told = absl::StatusCode::kOk;
  for (;;) {
    {
      MutexLock lock(&mutex_);
      if (stop_) return;
      wake_.WaitUntil(&mutex_, SteadyNow() + kLook);
      if (stop_) return;
    }
    if (ended().has_value()) return;
    ShareLimits();
    PublishHot();
    // An error is retried at the next look; an outdated epoch is not an error.
    const absl::Status step = Step();
    const bool passed = absl::IsFailedPrecondition(step) || absl::IsAborted(step) || absl::IsNotFound(step);
    const absl::StatusCode code = passed ? absl::StatusCode::kOk : step.code();
    if (code != absl::StatusCode::kOk && code != told) Log(Severity::kWarning, "member_state_not_set", step.message());
    told = code;
  }
}

}  // namespace kvlink::store::cluster
