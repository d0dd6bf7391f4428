// The user's end of a session: everything is handed to the progress thread.
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
    KVLINK_RETURN_IF_ERROR(session_->Reserve(static_cast<int64_t>(message.size())));
    std::string frame;
    frame.reserve(kFrameHeaderBytes + message.size());
    frame.resize(kFrameHeaderBytes);
    frame.append(message.data(), message.size());
    Post([frame = std::move(frame)](Session* session) mutable { session->SendMessage(std::move(frame)); });
    return absl::OkStatus();
  }
  // What comes after the end of the transport is refused at once: there is no thread to do it.
  void Land(uint64_t id, Slice into, absl::Time deadline, Landed done) override {
    const auto told = std::make_shared<Landed>(std::move(done));
    const bool posted = Post([id, into = std::move(into), deadline, told](Session* session) mutable {
      session->Land(id, std::exchange(into, {}), deadline, std::move(*told));
    });
    if (!posted) (*told)(Gone(), 0);
  }
  void Send(uint64_t id, Slice from, absl::Time deadline, Sent done) override {
    const auto told = std::make_shared<Sent>(std::move(done));
    const bool posted = Post([id, from = std::move(from), deadline, told](Session* session) mutable {
      session->Send(id, std::exchange(from, {}), deadline, std::move(*told));
    });
    if (!posted) (*told)(Gone());
  }
  void CancelLanding(uint64_t id) override {
    Post([id](Session* session) { session->CancelLanding(id); });
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
