#include "tests/support/transport/faulty/faulty_channel.h"

#include <cstring>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace kvlink::transport {

class FaultyChannel::Events : public ConnectionEvents {
 public:
  explicit Events(std::shared_ptr<FaultyChannel> channel) : channel_(std::move(channel)) {}
  void OnMessage(absl::string_view message) override {
    channel_->thread_->Post(
        [channel = channel_, message = std::string(message)]() mutable { channel->OnMessage(std::move(message)); });
  }
  void OnClosed(const absl::Status& why) override {
    channel_->thread_->Post([channel = channel_, why] { channel->OnClosed(why); });
  }

 private:
  const std::shared_ptr<FaultyChannel> channel_;
};

std::shared_ptr<ConnectionEvents> FaultyChannel::Wrap(std::shared_ptr<ConnectionEvents> events) {
  thread_->Post(
      [self = shared_from_this(), events = std::move(events)]() mutable { self->events_ = std::move(events); });
  return std::make_shared<Events>(shared_from_this());
}

void FaultyChannel::Bind(std::shared_ptr<Connection> inner) {
  peer_ = inner->peer();
  thread_->Post([self = shared_from_this(), inner = std::move(inner)]() mutable {
    if (!self->closed_) self->inner_ = std::move(inner);
  });
}

// --- out

void FaultyChannel::SendMessage(std::string message, Fault fault, uint64_t draw) {
  if (fault == Fault::kDrop) return;
  if (fault == Fault::kCorrupt) message[draw / 8 % message.size()] ^= static_cast<char>(1 << draw % 8);
  Held held;
  held.go = [this, message = std::move(message)] { PassMessage(message); };
  Pass(std::move(held), absl::InfiniteFuture(), fault);
}

void FaultyChannel::PassMessage(const std::string& message) {
  if (inner_ == nullptr || inner_->SendMessage(message).code() != absl::StatusCode::kResourceExhausted) return;
  thread_->timers().At(SteadyNow() + absl::Milliseconds(1),
                       [self = shared_from_this(), message] { self->PassMessage(message); });
}

void FaultyChannel::Send(uint64_t id, Slice from, absl::Time deadline, Sent done, Fault fault, uint64_t draw) {
  if (inner_ == nullptr) return done(absl::UnavailableError("the connection is closed"));
  if (fault == Fault::kDrop) {
    from.buffer = nullptr;
    return done(absl::OkStatus());
  }
  if (fault == Fault::kCorrupt && from.buffer != nullptr && from.length > 0) {
    auto copy = allocator_->Allocate(from.length);
    if (!copy.ok()) return done(copy.status());
    std::memcpy((*copy)->data(), from.data(), from.length);
    (*copy)->data()[draw / 8 % from.length] ^= static_cast<std::byte>(1 << draw % 8);
    from = {*std::move(copy), 0, from.length};
  }
  struct Operation {
    Slice from;
    Sent done;
  };
  auto operation = std::make_shared<Operation>(Operation{std::move(from), std::move(done)});
  Held held;
  held.send = true;
  held.id = id;
  held.fail = [operation](const absl::Status& status) {
    operation->from.buffer = nullptr;
    operation->done(status);
  };
  held.go = [this, id, deadline, operation] {
    if (inner_ == nullptr) return operation->done(absl::UnavailableError("the connection is closed"));
    inner_->Send(id, std::move(operation->from), deadline,
                 [thread = thread_, self = shared_from_this(), operation](const absl::Status& status) {
                   thread->Post([operation, status] { operation->done(status); });
                 });
  };
  Pass(std::move(held), deadline, fault);
}

void FaultyChannel::Pass(Held held, absl::Time deadline, Fault fault) {
  if (fault == Fault::kCut && inner_ != nullptr) inner_->Close();
  if (fault == Fault::kFreeze) {
    frozen_until_ = thread_->now() + freeze_;
    thread_->timers().At(frozen_until_, [self = shared_from_this()] {
      while (!self->inbound_.empty() && !self->frozen() && self->events_ != nullptr) {
        const std::string message = std::move(self->inbound_.front());
        self->inbound_.pop_front();
        self->events_->OnMessage(message);
      }
    });
  }
  held.behind_next = fault == Fault::kReorder;
  if (fault == Fault::kDelay || fault == Fault::kReorder)
    return Hold(std::move(held), thread_->now() + delay_, deadline);
  if (frozen()) return Hold(std::move(held), frozen_until_, deadline);
  held.go();
  std::vector<int64_t> next;
  for (const auto& [number, waiting] : held_) {
    if (waiting.behind_next) next.push_back(number);
  }
  for (const int64_t number : next) Go(number);
}

void FaultyChannel::Hold(Held held, absl::Time due, absl::Time deadline) {
  const int64_t number = ++last_;
  held.due = thread_->timers().At(due, [self = shared_from_this(), number] { self->Go(number); });
  held.deadline =
      thread_->timers().At(held.send ? deadline : absl::InfiniteFuture(), [self = shared_from_this(), number] {
        self->FailHeld(number, absl::DeadlineExceededError("deadline passed on the way out"));
      });
  held_.emplace(number, std::move(held));
}

void FaultyChannel::Go(int64_t number) {
  const auto found = held_.find(number);
  if (found == held_.end()) return;
  if (frozen()) {
    found->second.due = thread_->timers().At(frozen_until_, [self = shared_from_this(), number] { self->Go(number); });
    return;
  }
  const Held held = std::move(found->second);
  held_.erase(found);
  thread_->timers().Cancel(held.due);
  thread_->timers().Cancel(held.deadline);
  held.go();
}

void FaultyChannel::FailHeld(int64_t number, const absl::Status& status) {
  const auto found = held_.find(number);
  if (found == held_.end()) return;
  const Held held = std::move(found->second);
  held_.erase(found);
  thread_->timers().Cancel(held.due);
  thread_->timers().Cancel(held.deadline);
  if (held.fail != nullptr) held.fail(status);
}

void FaultyChannel::FailAll(const absl::Status& status) {
  while (!held_.empty()) FailHeld(held_.begin()->first, status);
}

void FaultyChannel::CancelSend(uint64_t id) {
  for (const auto& [number, held] : held_) {
    if (held.send && held.id == id) return FailHeld(number, absl::CancelledError("cancelled"));
  }
  if (inner_ != nullptr) inner_->CancelSend(id);
}

// --- in, and what passes as it is

void FaultyChannel::PostReceive(uint64_t id, Slice into, absl::Time deadline, Received done) {
  if (inner_ == nullptr) return done(absl::UnavailableError("the connection is closed"), 0);
  inner_->PostReceive(id, std::move(into), deadline,
                      [thread = thread_, done = std::move(done)](const absl::Status& status, int64_t bytes) {
                        thread->Post([done, status, bytes] { done(status, bytes); });
                      });
}

void FaultyChannel::CancelReceive(uint64_t id) {
  if (inner_ != nullptr) inner_->CancelReceive(id);
}

void FaultyChannel::OnMessage(std::string message) {
  if (events_ == nullptr) return;
  if (frozen() || !inbound_.empty()) {
    inbound_.push_back(std::move(message));
  } else {
    events_->OnMessage(message);
  }
}

void FaultyChannel::OnClosed(const absl::Status& why) {
  closed_ = true;
  FailAll(absl::UnavailableError("the connection was closed"));
  Abandon();
  const auto events = std::exchange(events_, nullptr);
  if (events != nullptr) events->OnClosed(why);
}

void FaultyChannel::Close() {
  closed_ = true;
  FailAll(absl::UnavailableError("the connection was closed"));
  if (inner_ != nullptr) inner_->Close();
}

void FaultyChannel::Abandon() {
  FailAll(absl::UnavailableError("the connection was closed"));
  inner_ = nullptr;
}

}  // namespace kvlink::transport
