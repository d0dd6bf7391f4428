#include "tests/support/transport/faulty/link.h"

#include <cstring>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace kvlink::transport {

class Link::Events : public ConnectionEvents {
 public:
  explicit Events(std::shared_ptr<Link> link) : link_(std::move(link)) {}
  void OnMessage(absl::string_view message) override {
    link_->thread_->Post(
        [link = link_, message = std::string(message)]() mutable { link->OnMessage(std::move(message)); });
  }
  void OnClosed(const absl::Status& why) override {
    link_->thread_->Post([link = link_, why] { link->OnClosed(why); });
  }

 private:
  const std::shared_ptr<Link> link_;
};

std::shared_ptr<ConnectionEvents> Link::Wrap(std::shared_ptr<ConnectionEvents> events) {
  thread_->Post(
      [self = shared_from_this(), events = std::move(events)]() mutable { self->events_ = std::move(events); });
  return std::make_shared<Events>(shared_from_this());
}

void Link::Bind(std::shared_ptr<Connection> inner) {
  peer_ = inner->peer();
  thread_->Post([self = shared_from_this(), inner = std::move(inner)]() mutable {
    if (!self->closed_) self->inner_ = std::move(inner);
  });
}

// --- out

void Link::SendMessage(std::string message, Fault fault, uint64_t draw) {
  if (fault == Fault::kDrop) return;
  if (fault == Fault::kCorrupt) message[draw / 8 % message.size()] ^= static_cast<char>(1 << draw % 8);
  Held held;
  held.go = [this, message = std::move(message)] { PassMessage(message); };
  Pass(std::move(held), absl::InfiniteFuture(), fault);
}

void Link::PassMessage(const std::string& message) {
  if (inner_ == nullptr || inner_->SendMessage(message).code() != absl::StatusCode::kResourceExhausted) return;
  thread_->timers().At(SteadyNow() + absl::Milliseconds(1),
                       [self = shared_from_this(), message] { self->PassMessage(message); });
}

void Link::Send(uint64_t id, Slice from, absl::Time deadline, Sent done, Fault fault, uint64_t draw) {
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

void Link::Pass(Held held, absl::Time deadline, Fault fault) {
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

void Link::Hold(Held held, absl::Time due, absl::Time deadline) {
  const int64_t number = ++last_;
  held.due = thread_->timers().At(due, [self = shared_from_this(), number] { self->Go(number); });
  held.deadline =
      thread_->timers().At(held.send ? deadline : absl::InfiniteFuture(), [self = shared_from_this(), number] {
        self->FailHeld(number, absl::DeadlineExceededError("deadline passed on the way out"));
      });
  held_.emplace(number, std::move(held));
}

void Link::Go(int64_t number) {
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

void Link::FailHeld(int64_t number, const absl::Status& status) {
  const auto found = held_.find(number);
  if (found == held_.end()) return;
  const Held held = std::move(found->second);
  held_.erase(found);
  thread_->timers().Cancel(held.due);
  thread_->timers().Cancel(held.deadline);
  if (held.fail != nullptr) held.fail(status);
}

void Link::FailAll(const absl::Status& status) {
  while (!held_.empty()) FailHeld(held_.begin()->first, status);
}

void Link::CancelSend(uint64_t id) {
  for (const auto& [number, held] : held_) {
    if (held.send && held.id == id) return FailHeld(number, absl::CancelledError("cancelled"));
  }
  if (inner_ != nullptr) inner_->CancelSend(id);
}

// --- in, and what passes as it is

void Link::Land(uint64_t id, Slice into, absl::Time deadline, Landed done) {
  if (inner_ == nullptr) return done(absl::UnavailableError("the connection is closed"), 0);
  inner_->Land(id, std::move(into), deadline,
               [thread = thread_, done = std::move(done)](const absl::Status& status, int64_t bytes) {
                 thread->Post([done, status, bytes] { done(status, bytes); });
               });
}

void Link::CancelLanding(uint64_t id) {
  if (inner_ != nullptr) inner_->CancelLanding(id);
}

void Link::OnMessage(std::string message) {
  if (events_ == nullptr) return;
  if (frozen() || !inbound_.empty()) {
    inbound_.push_back(std::move(message));
  } else {
    events_->OnMessage(message);
  }
}

void Link::OnClosed(const absl::Status& why) {
  closed_ = true;
  FailAll(absl::UnavailableError("the connection was closed"));
  Abandon();
  const auto events = std::exchange(events_, nullptr);
  if (events != nullptr) events->OnClosed(why);
}

void Link::Close() {
  closed_ = true;
  FailAll(absl::UnavailableError("the connection was closed"));
  if (inner_ != nullptr) inner_->Close();
}

void Link::Abandon() {
  FailAll(absl::UnavailableError("the connection was closed"));
  inner_ = nullptr;
}

}  // namespace kvlink::transport
