// One call between gRPC's threads, where its operations begin and end, and the progress thread, where the connection
// lives.
//
// Thread-safety: as each method says. Lifetime: kept by gRPC until the call is over, and by its wire.
#ifndef KVLINK_TRANSPORT_GRPC_STREAM_H_
#define KVLINK_TRANSPORT_GRPC_STREAM_H_

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "transport/progress.h"
#include "transport/transport.h"

namespace kvlink::transport {

// The way to the progress thread for those who may outlive it. Thread-safety: all of it.
class Mailbox {
 public:
  explicit Mailbox(ProgressThread* thread) : thread_(thread) {}
  // False: the thread has ended, and `work` is dropped.
  bool Post(std::function<void()> work);
  // Before the thread is destroyed.
  void Close();

 private:
  Mutex mutex_;
  ProgressThread* thread_ ABSL_GUARDED_BY(mutex_);
};

// A payload that gRPC reads. Tells the progress thread when it is not read any more.
class PayloadSource {
 public:
  PayloadSource(std::shared_ptr<Mailbox> mailbox, Slice from, std::function<void(bool sent)> done)
      : mailbox_(std::move(mailbox)), from_(std::move(from)), done_(std::move(done)) {}
  ~PayloadSource();
  PayloadSource(const PayloadSource&) = delete;
  PayloadSource& operator=(const PayloadSource&) = delete;
  const Slice& from() const { return from_; }
  // gRPC has taken all of it. By the thread that then drops its reference.
  void SetSent() { sent_ = true; }

 private:
  const std::shared_ptr<Mailbox> mailbox_;
  const Slice from_;
  std::function<void(bool)> done_;
  bool sent_ = false;
};

// Events of a stream, on the progress thread.
class StreamEvents {
 public:
  virtual ~StreamEvents() = default;
  virtual void OnBuffer(const grpc::ByteBuffer& buffer) = 0;
  // Nothing more comes; what had come was told.
  virtual void OnEnd(const absl::Status& why) = 0;
  // Last: gRPC has no operation of this call any more.
  virtual void OnOver() = 0;
};

// The kind of a message of the stream, its first byte.
enum class StreamMessage : char {
  kFrame = 0,    // a frame
  kPayload = 1,  // a payload frame, then the first bytes of the payload
  kPiece = 2,    // the next bytes of the payload that was begun last
};

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  explicit Stream(std::shared_ptr<Mailbox> mailbox) : mailbox_(std::move(mailbox)) {}
  virtual ~Stream() = default;

  // Progress thread. Null: tells nothing any more.
  void set_events(StreamEvents* events) { events_ = events; }
  const std::shared_ptr<Mailbox>& mailbox() const { return mailbox_; }

  // Any thread. Frames are sent in order, each with `taken` when gRPC has taken it or it is dropped; payloads too, but
  // frames go first, also between the pieces of a payload.
  void SendFrame(std::string frame, std::function<void()> taken);
  void SendPayload(std::string frame, std::shared_ptr<PayloadSource> source);
  // While false, nothing more is taken from gRPC, whose flow control then holds the other side back.
  void SetReading(bool reading);
  // Ends the call; where `flush`, when what was sent is taken.
  void Close(bool flush);

 protected:
  // Any thread, each while none of its kind is under way; gRPC may answer before they return.
  virtual void StartReading(grpc::ByteBuffer* into) = 0;
  virtual void StartWriting(const grpc::ByteBuffer* from) = 0;
  // Once, no write is under way and none begins any more; a read only where reads_to_the_end.
  virtual void End(bool cancelled) = 0;
  // Fails the operations under way. May be called late, and more than once.
  virtual void Cancel() = 0;
  // Whether reading goes on until gRPC says that there is no more, and the call ends with that (a client's).
  virtual bool reads_to_the_end() const = 0;
  virtual void ReadFailed() = 0;

  // From gRPC; ReadMore also once to begin.
  void ReadMore();
  void ReadDone(bool ok);
  void WriteDone(bool ok);
  // The other side will say nothing more, for the reason that is told first.
  void Ended(const absl::Status& why);
  void Over();

 private:
  struct Outgoing {
    std::string frame;
    std::function<void()> taken;
    std::shared_ptr<PayloadSource> source;
    int64_t begun = 0;  // bytes of the payload
  };
  using Queue = std::deque<Outgoing>;
  enum class State { kOpen, kFlushing, kCancelled };

  void Enqueue(Outgoing outgoing, Queue* queue);
  void WriteMore();
  // Makes a message of what comes next. False: nothing does.
  bool NextMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndIfDue();
  void Drop(Queue* queue);
  void PostDelivery() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Deliver();

  const std::shared_ptr<Mailbox> mailbox_;
  StreamEvents* events_ = nullptr;  // the progress thread's

  Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kOpen;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;  // End was called, or is about to be
  int starting_ ABSL_GUARDED_BY(mutex_) = 0;     // reads that are decided on and not yet gRPC's

  // The buffer is gRPC's while writing_.
  bool writing_ ABSL_GUARDED_BY(mutex_) = false, write_failed_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer write_buffer_;
  std::optional<Outgoing> written_ ABSL_GUARDED_BY(mutex_);  // what the message in the buffer completes
  Queue frames_ ABSL_GUARDED_BY(mutex_), payloads_ ABSL_GUARDED_BY(mutex_);

  // The buffer is gRPC's while reading_.
  bool held_back_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false, read_failed_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer read_buffer_;
  std::deque<grpc::ByteBuffer> arrived_ ABSL_GUARDED_BY(mutex_);
  int64_t arrived_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // until they are handled
  bool delivery_posted_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool end_told_ ABSL_GUARDED_BY(mutex_) = false, over_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_STREAM_H_
