// The user's end of a session: passes every call to the progress thread.
#include <utility>

#include "base/status.h"
#include "transport/session.h"

namespace kvlink::transport {
namespace {

class Handle : public Connection {
 public:
  explicit Handle(std::shared_ptr<Session> session) : session_(std::move(session)) {}
  ~Handle() override { Close(); }

  absl::Status SendMessage(absl::string_view message) override {
    const int64_t bytes = static_cast<int64_t>(message.size());
    KVLINK_RETURN_IF_ERROR(session_->Reserve(bytes));
    std::string frame;
    frame.reserve(kFrameHeaderBytes + message.size());
    frame.resize(kFrameHeaderBytes);
    frame.append(message.data(), message.size());
    const absl::Status posted =
        TryPost([frame = std::move(frame)](Session* session) mutable { session->SendMessage(std::move(frame)); });
    if (!posted.ok()) session_->Unreserve(bytes);
    return posted;
  }
  // A call that finds the thread's queue full is refused on the thread, as always, and keeps no memory meanwhile. After
  // the transport has ended, it is refused right here, as there is no thread any more.
  void PostReceive(uint64_t id, Slice into, absl::Time deadline, Received done) override {
    const auto told = std::make_shared<Received>(std::move(done));
    const absl::Status posted = TryPost([id, into = std::move(into), deadline, told](Session* session) mutable {
      session->PostReceive(id, std::exchange(into, {}), deadline, std::move(*told));
    });
    if (posted.ok() || Post([told, posted](Session*) { (*told)(posted, 0); })) return;
    (*told)(Gone(), 0);
  }
  void Send(uint64_t id, Slice from, absl::Time deadline, Sent done) override {
    const auto told = std::make_shared<Sent>(std::move(done));
    const absl::Status posted = TryPost([id, from = std::move(from), deadline, told](Session* session) mutable {
      session->Send(id, std::exchange(from, {}), deadline, std::move(*told));
    });
    if (posted.ok() || Post([told, posted](Session*) { (*told)(posted); })) return;
    (*told)(Gone());
  }
  void CancelReceive(uint64_t id) override {
    Post([id](Session* session) { session->CancelReceive(id); });
  }
  void CancelSend(uint64_t id) override {
    Post([id](Session* session) { session->CancelSend(id); });
  }
  void Close() override {
    Post([](Session* session) { session->Shut(absl::OkStatus(), "local", true); });
  }
  std::string peer() const override { return session_->peer(); }

 private:
  absl::Status Gone() const {
    return absl::UnavailableError(absl::StrCat("the connection to ", peer(), " is closed: its transport has ended"));
  }
  template <typename Work>
  absl::Status TryPost(Work work) {
    return session_->thread()->TryPost([session = session_, work = std::move(work)]() mutable { work(session.get()); });
  }
  template <typename Work>
  bool Post(Work work) {
    return session_->thread()->Post([session = session_, work = std::move(work)]() mutable { work(session.get()); });
  }
  const std::shared_ptr<Session> session_;
};

}  // namespace

std::shared_ptr<Connection> HandleOf(std::shared_ptr<Session> session) {
  return std::make_shared<Handle>(std::move(session));
}

}  // namespace kvlink::transport
