#include "transport/session.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::transport {
namespace {

constexpr absl::Duration kHandshake = absl::Seconds(10);
constexpr int kBeatsPerLimit = 4, kIdleFactor = 10;
constexpr int kTicksShared = 16;       // shared instants per period at which connections tick
constexpr int kMinInNetwork = 2;       // payloads, so that one starts as another ends
constexpr int64_t kMessageCost = 256;  // overhead of a queued message besides its bytes
constexpr uint32_t kMinHeartbeatMs = 100, kMaxHeartbeatMs = 3600000;

uint64_t RandomToken() {
  std::random_device random;
  const uint64_t token = uint64_t{random()} << 32 | random();
  return token != 0 ? token : 1;  // 0 means not yet known
}

}  // namespace

void RecentIds::Add(uint64_t id) {
  if (!ids_.insert(id).second) return;
  order_.push_back(id);
  if (order_.size() > static_cast<size_t>(kMaxOperations)) {
    ids_.erase(order_.front());
    order_.pop_front();
  }
}

struct Session::Transfer {
  uint64_t id = 0;
  Slice slice;
  Received done;  // null: completed, but the bytes are in quarantine
  bool receive = false;
  bool in_wire = false;
  int64_t bytes = 0;   // in the wire
  uint64_t order = 0;  // sends only
  Timers::Id deadline, quarantine, receive_limit;
};

Session::Session(const Options& options, std::unique_ptr<Wire> wire)
    : thread_(options.thread),
      counters_(options.counters),
      heartbeat_(options.heartbeat),
      window_bytes_(options.window_bytes),
      pause_at_bytes_(options.pause_at_bytes),
      budget_(options.budget),
      receive_within_(options.receive_within),
      on_open_(options.on_open),
      on_gone_(options.on_gone),
      wire_(std::move(wire)),
      peer_(wire_->peer()),
      token_(RandomToken()) {
  ++counters_->connections;
  busy_since_ = heard_ = spoke_ = thread_->now();
}

Session::~Session() {
  --counters_->connections;
  if (budget_ != nullptr) budget_->Return(queued_message_bytes_);
}

void Session::StartClient(std::shared_ptr<ConnectionEvents> events,
                          std::function<bool(const absl::Status&)> established) {
  events_ = std::move(events);
  established_ = std::move(established);
  SendFrame(FrameKind::kHello, HelloBody({token_, static_cast<uint32_t>(absl::ToInt64Milliseconds(heartbeat_))}));
}

void Session::StartServer(Accept accept) {
  accept_ = std::move(accept);
  handshake_ = thread_->timers().At(thread_->now() + kHandshake, [self = shared_from_this()] {
    self->Shut(absl::UnavailableError(absl::StrCat(self->peer_, " connected and said nothing")), "handshake", false);
  });
}

// --- called by the wire

void Session::OnFrame(absl::string_view bytes) {
  if (state_ == State::kClosed) return;
  const auto frame = ParseFrame(bytes);
  if (!frame.ok()) {
    return Violation(absl::IsUnimplemented(frame.status()) ? "frame-version" : "frame-malformed",
                     std::string(frame.status().message()));
  }
  if (frame->kind == FrameKind::kPayload) return Violation("frame-malformed", "a payload frame without a payload");
  if ((frame->kind == FrameKind::kHello) != (state_ == State::kNew)) {
    return Violation("hello", state_ == State::kNew ? "no hello" : "a second hello");
  }
  // Some carriers find the session by its token, others by the stream the frame arrived on.
  const uint64_t token = state_ == State::kNew && accept_ != nullptr ? 0 : token_;
  if (frame->token != token) return Violation("frame-token", "a frame for another connection");
  if (frame->sequence != received_frames_++) return Violation("frame-order", "a frame is missing or was repeated");
  heard_ = thread_->now();
  switch (frame->kind) {
    case FrameKind::kHello:
      return OnHello(*frame);
    case FrameKind::kMessage:
      ++counters_->messages_received;
      return events_->OnMessage(frame->body);
    case FrameKind::kGrant:
      return OnGrants(ParseGrants(frame->body));
    case FrameKind::kWithdraw:
      return OnWithdraw(ParseWithdraw(frame->body));
    case FrameKind::kHeartbeat:
    case FrameKind::kPayload:
      return;
  }
}

void Session::OnHello(const Frame& frame) {
  const Hello hello = ParseHello(frame.body);
  if (hello.token == 0 || hello.heartbeat_ms < kMinHeartbeatMs || hello.heartbeat_ms > kMaxHeartbeatMs) {
    return Violation("hello", absl::StrCat("a hello with a heartbeat of ", hello.heartbeat_ms, " ms"));
  }
  peer_token_ = hello.token;
  peer_heartbeat_ = absl::Milliseconds(hello.heartbeat_ms);
  state_ = State::kOpen;
  thread_->timers().Cancel(handshake_);
  if (on_open_ != nullptr) std::exchange(on_open_, nullptr)(this);
  if (accept_ != nullptr) {
    events_ = std::exchange(accept_, nullptr)(HandleOf(shared_from_this()));
    if (events_ == nullptr) return Shut(absl::UnavailableError("refused"), "refused", false);
    SendFrame(FrameKind::kHello, HelloBody({token_, static_cast<uint32_t>(absl::ToInt64Milliseconds(heartbeat_))}));
  } else if (!std::exchange(established_, nullptr)(absl::OkStatus())) {
    events_ = nullptr;
    return Shut(absl::OkStatus(), "local", false);
  }
  ScheduleTick();
}

void Session::OnGrants(const std::vector<Grant>& grants) {
  for (const Grant& grant : grants) {
    if (grant.bytes == 0 || grant.bytes > static_cast<uint64_t>(kMaxPayloadBytes)) {
      return Violation("grant-malformed", absl::StrCat("a grant of ", grant.bytes, " bytes"));
    }
    if (credits_.size() >= static_cast<size_t>(kMaxOperations)) {
      return Violation("grant-excess", absl::StrCat("more than ", kMaxOperations, " grants"));
    }
    if (!credits_.emplace(grant.id, grant.bytes).second) {
      return Violation("grant-duplicate", absl::StrCat("a second grant for ", grant.id));
    }
    const auto send = sends_.find(grant.id);
    if (send == sends_.end() || send->second->in_wire) continue;
    MatchCredit(TransferPointer(send->second), grant.bytes);
  }
  Pump();
  UpdateBusy();
}

void Session::OnWithdraw(const std::vector<uint64_t>& ids) {
  for (const uint64_t id : ids) {
    if (credits_.erase(id) == 0) continue;  // its payload is already on the way
    const auto send = sends_.find(id);
    if (send == sends_.end()) {
      withdrawn_credits_.Add(id);
    } else {
      GiveUp(id, false, absl::CancelledError("the receiver took the receive back"));
    }
  }
  UpdateBusy();
}

void Session::OnPayload(absl::string_view bytes, Offer* offer) {
  if (state_ == State::kClosed) return;
  const auto frame = ParseFrame(bytes);
  if (!frame.ok() || frame->kind != FrameKind::kPayload)
    return Violation("frame-malformed", "a payload without its frame");
  if (state_ != State::kOpen) return Violation("hello", "a payload before hello");
  if (frame->token != token_) return Violation("frame-token", "a payload for another connection");
  heard_ = thread_->now();
  const Grant said = ParseGrants(frame->body)[0];
  const auto found = receives_.find(said.id);
  if (found == receives_.end()) {
    if (withdrawn_receives_.Remove(said.id)) {
      ++counters_->payloads_late;
      return;
    }
    return Violation("payload-unreserved", absl::StrCat("payload ", said.id, " has no receive"));
  }
  const TransferPointer transfer = found->second;
  if (transfer->in_wire) return Violation("payload-duplicate", absl::StrCat("payload ", said.id, " came twice"));
  if (offer->bytes() < 1 || said.bytes != static_cast<uint64_t>(offer->bytes())) {
    return Violation("payload-malformed", absl::StrCat("payload ", said.id, " is not as long as it says"));
  }
  if (offer->bytes() > transfer->slice.length) {
    return Violation("payload-oversized", absl::StrCat("payload ", said.id, " of ", offer->bytes(),
                                                       " bytes for a posted receive of ", transfer->slice.length));
  }
  transfer->in_wire = true;
  transfer->bytes = offer->bytes();
  ++in_wire_;
  Slice into = transfer->slice;
  into.length = transfer->bytes;
  offer->Receive(into, [self = shared_from_this(), transfer](const absl::Status& status) {
    self->WireDone(transfer.get(), status);
  });
}

void Session::Violation(absl::string_view reason, const std::string& what) {
  Shut(absl::InvalidArgumentError(absl::StrCat(peer_, " broke the protocol: ", what)), reason, false);
}

// --- called by the user

absl::Status Session::Reserve(int64_t message_bytes) {
  if (message_bytes < 1 || message_bytes > kMaxMessageBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("message of ", message_bytes, " bytes; 1 to ", kMaxMessageBytes, " can be sent"));
  }
  if (!open_) return absl::UnavailableError(absl::StrCat("the connection to ", peer_, " is closed"));
  const int64_t cost = message_bytes + kMessageCost;
  const int64_t queued = queued_message_bytes_.fetch_add(cost) + cost;
  if (budget_ != nullptr) budget_->Take(cost);
  const bool others_need_it = budget_ != nullptr && budget_->exceeded() && queued > pause_at_bytes_;
  if (queued > kMaxQueuedMessageBytes || others_need_it) {
    Return(cost);
    return absl::ResourceExhaustedError(absl::StrCat(peer_, " does not take messages fast enough"));
  }
  return absl::OkStatus();
}

void Session::Unreserve(int64_t message_bytes) { Return(message_bytes + kMessageCost); }

void Session::SendMessage(std::string frame) {
  const int64_t bytes = static_cast<int64_t>(frame.size()) - kFrameHeaderBytes;
  const int64_t cost = bytes + kMessageCost;
  if (state_ != State::kOpen) return Return(cost);
  FlushControl();
  const std::string header = FrameHeader(FrameKind::kMessage, sent_frames_++, peer_token_, bytes);
  frame.replace(0, header.size(), header);
  ++counters_->messages_sent;
  spoke_ = thread_->now();
  wire_->SendFrame(std::move(frame), [self = shared_from_this(), cost] {
    self->Return(cost);
    if (!self->paused_) return;
    // While paused the peer is not read, so taking our messages is its only sign of life.
    self->heard_ = self->thread_->now();
    if (self->queued_message_bytes_ >= self->pause_at_bytes_ / 2) return;
    self->paused_ = false;
    self->wire_->SetReading(true);
  });
  if (pause_at_bytes_ > 0 && queued_message_bytes_ >= pause_at_bytes_ && !std::exchange(paused_, true)) {
    wire_->SetReading(false);
  }
}

void Session::Return(int64_t cost) {
  queued_message_bytes_ -= cost;
  if (budget_ != nullptr) budget_->Return(cost);
}

Session::TransferPointer Session::Open(Transfers* open, uint64_t id, const Slice& slice, absl::Time deadline,
                                       Received done, bool receive) {
  absl::Status refused;
  const RegisteredBuffer* const buffer = slice.buffer.get();
  if (state_ != State::kOpen) {
    refused = absl::UnavailableError(absl::StrCat("the connection to ", peer_, " is closed"));
  } else if (buffer == nullptr || slice.offset < 0 || slice.length < 1 || slice.length > kMaxPayloadBytes ||
             slice.length > buffer->size() || slice.offset > buffer->size() - slice.length) {
    refused = absl::InvalidArgumentError(absl::StrCat("slice of ", slice.length, " bytes at ", slice.offset,
                                                      " is not within its buffer of ", buffer ? buffer->size() : 0));
  } else if (!wire_->Owns(*buffer)) {
    refused = absl::InvalidArgumentError("the buffer is registered with another transport");
  } else if (open->size() >= static_cast<size_t>(kMaxOperations)) {
    refused = absl::ResourceExhaustedError(absl::StrCat(kMaxOperations, " operations are open; wait for some"));
  } else if (open->contains(id)) {
    refused = absl::InvalidArgumentError(absl::StrCat("id ", id, " is in use"));
  } else if (deadline <= SteadyNow()) {
    refused = absl::DeadlineExceededError("the deadline had passed before the operation began");
  }
  if (!refused.ok()) {
    done(refused, 0);
    return nullptr;
  }
  auto transfer = std::make_shared<Transfer>();
  transfer->id = id;
  transfer->slice = slice;
  transfer->done = std::move(done);
  transfer->receive = receive;
  transfer->deadline = thread_->timers().At(deadline, [self = shared_from_this(), id, receive] {
    self->GiveUp(id, receive,
                 absl::DeadlineExceededError(
                     absl::StrCat(receive ? "payload " : "sending payload ", id, ": deadline passed, ", self->peer_)));
  });
  open->emplace(id, transfer);
  return transfer;
}

void Session::PostReceive(uint64_t id, const Slice& into, absl::Time deadline, Received done) {
  if (Open(&receives_, id, into, deadline, std::move(done), true) == nullptr) return;
  grants_to_send_.push_back({id, static_cast<uint64_t>(into.length)});
  QueueControl();
  UpdateBusy();
}

void Session::Send(uint64_t id, const Slice& from, absl::Time deadline, Sent done) {
  const auto transfer = Open(
      &sends_, id, from, deadline, [done = std::move(done)](const absl::Status& status, int64_t) { done(status); },
      false);
  if (transfer == nullptr) return;
  transfer->order = ++last_order_;
  if (withdrawn_credits_.Remove(id)) {
    return GiveUp(id, false, absl::CancelledError("the receiver took the receive back"));
  }
  const auto credit = credits_.find(id);
  if (credit == credits_.end()) return AwaitReceive(transfer, deadline);
  MatchCredit(transfer, credit->second);
  Pump();
}

void Session::AwaitReceive(const TransferPointer& transfer, absl::Time deadline) {
  const absl::Time limit = thread_->now() + receive_within_;
  if (limit >= deadline) return;
  transfer->receive_limit = thread_->timers().At(limit, [self = shared_from_this(), id = transfer->id] {
    self->GiveUp(id, false,
                 absl::DeadlineExceededError(absl::StrCat(self->peer_, " made no room for payload ", id, " within ",
                                                          absl::FormatDuration(self->receive_within_))));
  });
}

// A send and its credit are both present.
void Session::MatchCredit(const TransferPointer& transfer, uint64_t bytes) {
  thread_->timers().Cancel(transfer->receive_limit);
  if (static_cast<uint64_t>(transfer->slice.length) <= bytes) {
    ready_.emplace(transfer->order, transfer);
    return;
  }
  Complete(transfer.get(),
           absl::InvalidArgumentError(
               absl::StrCat("payload of ", transfer->slice.length, " bytes for a posted receive of ", bytes)),
           0);
}

void Session::CancelReceive(uint64_t id) { GiveUp(id, true, absl::CancelledError("cancelled")); }
void Session::CancelSend(uint64_t id) { GiveUp(id, false, absl::CancelledError("cancelled")); }

// --- transfers

void Session::Pump() {
  while (!ready_.empty() && state_ == State::kOpen) {
    const TransferPointer transfer = ready_.begin()->second;
    const int64_t bytes = transfer->slice.length;
    if (in_network_ >= kMinInNetwork && in_network_bytes_ + bytes > window_bytes_) return;
    ready_.erase(ready_.begin());
    credits_.erase(transfer->id);
    transfer->in_wire = true;
    transfer->bytes = bytes;
    ++in_wire_;
    ++in_network_;
    in_network_bytes_ += bytes;
    const std::string body = GrantBody({{transfer->id, static_cast<uint64_t>(bytes)}});
    wire_->SendPayload(
        FrameHeader(FrameKind::kPayload, 0, peer_token_, body.size()) + body, transfer->slice,
        [self = shared_from_this(), transfer](const absl::Status& status) { self->WireDone(transfer.get(), status); });
  }
}

void Session::WireDone(Transfer* transfer, const absl::Status& status) {
  transfer->in_wire = false;
  --in_wire_;
  if (status.ok()) heard_ = thread_->now();
  if (!transfer->receive) {
    --in_network_;
    in_network_bytes_ -= transfer->bytes;
  }
  if (transfer->done == nullptr) {
    thread_->timers().Cancel(transfer->quarantine);
    counters_->quarantined_bytes -= transfer->slice.length;
    transfer->slice.buffer = nullptr;
  } else {
    if (status.ok()) {
      ++(transfer->receive ? counters_->payloads_received : counters_->payloads_sent);
      (transfer->receive ? counters_->payload_bytes_received : counters_->payload_bytes_sent) += transfer->bytes;
    }
    Complete(transfer, status, status.ok() ? transfer->bytes : 0);
  }
  Pump();
  UpdateBusy();
}

void Session::Complete(Transfer* transfer, const absl::Status& status, int64_t bytes) {
  const auto done = std::exchange(transfer->done, nullptr);
  thread_->timers().Cancel(transfer->deadline);
  thread_->timers().Cancel(transfer->receive_limit);
  Transfers& open = transfer->receive ? receives_ : sends_;
  const auto found = open.find(transfer->id);
  const TransferPointer keep = found->second;
  open.erase(found);
  if (transfer->in_wire) {
    counters_->quarantined_bytes += transfer->slice.length;
    if (state_ == State::kOpen) {
      transfer->quarantine =
          thread_->timers().At(thread_->now() + heartbeat_, [self = shared_from_this(), receive = transfer->receive] {
            self->Shut(absl::UnavailableError(absl::StrCat(self->peer_, receive ? ": a posted receive" : ": a payload",
                                                           " did not end within the heartbeat limit of its deadline")),
                       "quarantine", false);
          });
    }
  } else {
    transfer->slice.buffer = nullptr;
  }
  done(status, bytes);
}

void Session::GiveUp(uint64_t id, bool receive, const absl::Status& status) {
  Transfers& open = receive ? receives_ : sends_;
  const auto found = open.find(id);
  if (found == open.end()) return;
  const TransferPointer transfer = found->second;
  if (!transfer->in_wire && receive) {
    // Also if the grant has not been sent yet: the peer's Send may be waiting for it.
    withdrawn_receives_.Add(id);
    withdrawals_to_send_.push_back(id);
    QueueControl();
  }
  if (!receive) ready_.erase(transfer->order);
  Complete(transfer.get(), status, 0);
  UpdateBusy();
}

void Session::Shut(const absl::Status& why, absl::string_view reason, bool flush) {
  if (state_ == State::kClosed) return;
  const bool established = state_ == State::kOpen;
  const auto self = shared_from_this();
  state_ = State::kClosed;
  open_ = false;
  counters_->Closed(reason);
  Timers& timers = thread_->timers();
  timers.Cancel(tick_);
  timers.Cancel(handshake_);
  const absl::Status status = absl::UnavailableError(why.ok() ? absl::StrCat("the connection to ", peer_, " was closed")
                                                              : std::string(why.message()));
  const absl::Status refusal = absl::IsUnauthenticated(why) ? why : status;  // for the connecting caller
  ready_.clear();
  for (Transfers* open : {&receives_, &sends_}) {
    while (!open->empty()) Complete(TransferPointer(open->begin()->second).get(), status, 0);
  }
  flush = flush && established && in_wire_ == 0;
  if (flush) {
    flush_limit_ = timers.At(thread_->now() + heartbeat_,
                             [self] { self->wire_->Close(false, [self] { self->on_gone_(self.get()); }); });
  }
  wire_->Close(flush, [self] {
    self->thread_->timers().Cancel(self->flush_limit_);
    self->on_gone_(self.get());
  });
  accept_ = nullptr;
  if (established_ != nullptr) std::exchange(established_, nullptr)(refusal);
  const auto events = std::exchange(events_, nullptr);
  if (events != nullptr && established) events->OnClosed(why);
}

// --- frames and heartbeat

void Session::SendFrame(FrameKind kind, absl::string_view body, std::function<void()> taken) {
  std::string frame = FrameHeader(kind, sent_frames_++, peer_token_, body.size());
  frame.append(body.data(), body.size());
  spoke_ = thread_->now();
  wire_->SendFrame(std::move(frame), std::move(taken));
}

// Grants and withdrawals from one batch of calls travel together.
void Session::QueueControl() {
  if (std::exchange(control_queued_, true)) return;
  thread_->Defer([self = shared_from_this()] { self->FlushControl(); });
}

void Session::FlushControl() {
  control_queued_ = false;
  if (state_ != State::kOpen) return;
  const absl::Span<const Grant> grants = grants_to_send_;
  for (size_t at = 0; at < grants.size(); at += kMaxGrants) {
    SendFrame(FrameKind::kGrant, GrantBody(grants.subspan(at, kMaxGrants)));
  }
  grants_to_send_.clear();
  const absl::Span<const uint64_t> withdrawals = withdrawals_to_send_;
  for (size_t at = 0; at < withdrawals.size(); at += kMaxGrants) {
    SendFrame(FrameKind::kWithdraw, WithdrawBody(withdrawals.subspan(at, kMaxGrants)));
  }
  withdrawals_to_send_.clear();
}

bool Session::Busy() const { return !receives_.empty() || !credits_.empty() || in_wire_ > 0; }

void Session::UpdateBusy() {
  if (state_ != State::kOpen || busy_ == Busy()) return;
  busy_ = !busy_;
  if (!busy_) return;  // the next tick slows down
  busy_since_ = thread_->now();
  thread_->timers().Cancel(tick_);
  ScheduleTick();
}

void Session::ScheduleTick() {
  const absl::Duration pace = std::min(heartbeat_, peer_heartbeat_) / kBeatsPerLimit * (busy_ ? 1 : kIdleFactor);
  // At instants shared by the thread's connections, so that many idle ones wake it as rarely as one does.
  tick_due_ = absl::UnixEpoch() + absl::Floor(thread_->now() + pace - absl::UnixEpoch(), pace / kTicksShared);
  tick_ = thread_->timers().At(tick_due_, [self = shared_from_this()] { self->Tick(); });
}

void Session::Tick() {
  const absl::Time now = thread_->now();
  const int factor = busy_ ? 1 : kIdleFactor;
  const int patience = paused_ ? kIdleFactor : factor;
  // If this process was stopped, messages from the peer may still be unread.
  if (now - tick_due_ > heartbeat_ / kBeatsPerLimit) heard_ = now;
  const absl::Duration silent = now - std::max(heard_, busy_since_);
  if (silent > heartbeat_ * patience) {
    return Shut(absl::UnavailableError(absl::StrCat(peer_, " was silent for ", absl::FormatDuration(silent))),
                "heartbeat", false);
  }
  // A heartbeat not yet taken shows that the peer does not read; another would only queue behind it.
  if (now - spoke_ >= peer_heartbeat_ / kBeatsPerLimit * factor && !std::exchange(beating_, true)) {
    SendFrame(FrameKind::kHeartbeat, "", [self = shared_from_this()] { self->beating_ = false; });
  }
  ScheduleTick();
}

}  // namespace kvlink::transport
