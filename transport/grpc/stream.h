// One gRPC call, between gRPC's threads, where its operations start and complete, and the progress thread, where its
// connection lives.
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

// Posts to the progress thread for objects that may outlive it. Thread-safety: all methods.
class Mailbox {
 public:
  explicit Mailbox(ProgressThread* thread) : thread_(thread) {}
  // Returns false if the thread has ended; `work` is then dropped.
  bool Post(std::function<void()> work);
  // Call before the thread is destroyed.
  void Close();

 private:
  Mutex mutex_;
  ProgressThread* thread_ ABSL_GUARDED_BY(mutex_);
};

// A payload that gRPC reads. Its destructor tells the progress thread that the payload is no longer read.
class PayloadSource {
 public:
  PayloadSource(std::shared_ptr<Mailbox> mailbox, Slice from, std::function<void(bool sent)> done)
      : mailbox_(std::move(mailbox)), from_(std::move(from)), done_(std::move(done)) {}
  ~PayloadSource();
  PayloadSource(const PayloadSource&) = delete;
  PayloadSource& operator=(const PayloadSource&) = delete;
  const Slice& from() const { return from_; }
  // gRPC has taken all of it. Called by the thread that then drops its reference.
  void SetSent() { sent_ = true; }

 private:
  const std::shared_ptr<Mailbox> mailbox_;
  const Slice from_;
  std::function<void(bool)> done_;
  bool sent_ = false;
};

// Events of a stream, delivered on the progress thread.
class StreamEvents {
 public:
  virtual ~StreamEvents() = default;
  virtual void OnBuffer(const grpc::ByteBuffer& buffer) = 0;
  // No more buffers follow; everything that arrived has been delivered.
  virtual void OnEnd(const absl::Status& why) = 0;
  // The last event: gRPC has no operation of this call left.
  virtual void OnOver() = 0;
};

// The kind of a stream message: its first byte.
enum class StreamMessage : char {
  kFrame = 0,    // a frame
  kPayload = 1,  // a payload frame, then the first bytes of the payload
  kPiece = 2,    // the next bytes of the payload begun last
};

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  explicit Stream(std::shared_ptr<Mailbox> mailbox) : mailbox_(std::move(mailbox)) {}
  virtual ~Stream() = default;

  // Progress thread only. After null, no more events are delivered.
  void set_events(StreamEvents* events) { events_ = events; }
  const std::shared_ptr<Mailbox>& mailbox() const { return mailbox_; }

  // Any thread. Frames are sent in order; `taken` is called when gRPC has taken the frame or it is dropped. Payloads
  // are sent in order too, but frames go first, even between the pieces of a payload.
  void SendFrame(std::string frame, std::function<void()> taken);
  void SendPayload(std::string frame, std::shared_ptr<PayloadSource> source);
  // While false, nothing more is taken from gRPC, whose flow control then holds the peer back.
  void SetReading(bool reading);
  // Ends the call; with `flush`, once gRPC has taken everything queued.
  void Close(bool flush);

 protected:
  // Any thread, one operation of each kind at a time; gRPC may complete it before these return.
  virtual void StartReading(grpc::ByteBuffer* into) = 0;
  virtual void StartWriting(const grpc::ByteBuffer* from) = 0;
  // Called once, when no write is in progress and none will start; a read may be in progress only if
  // reads_to_the_end().
  virtual void End(bool cancelled) = 0;
  // Fails the operations in progress. May be called late, and more than once.
  virtual void Cancel() = 0;
  // Whether reading continues until gRPC reports the end, which then ends the call (true for clients).
  virtual bool reads_to_the_end() const = 0;
  virtual void ReadFailed() = 0;

  // Called by gRPC; ReadMore is also called once to start.
  void ReadMore();
  void ReadDone(bool ok);
  void WriteDone(bool ok);
  // The peer will send nothing more. The first reason is the one reported.
  void Ended(const absl::Status& why);
  void Over();

 private:
  struct Outgoing {
    std::string frame;
    std::function<void()> taken;
    std::shared_ptr<PayloadSource> source;
    int64_t begun = 0;  // bytes of the payload sent so far
  };
  using Queue = std::deque<Outgoing>;
  enum class State { kOpen, kFlushing, kCancelled };

  void Enqueue(Outgoing outgoing, Queue* queue);
  void WriteMore();
  // Builds the next message. Returns false if there is none.
  bool NextMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndIfDue();
  void Drop(Queue* queue);
  void PostDelivery() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Deliver();

  const std::shared_ptr<Mailbox> mailbox_;
  StreamEvents* events_ = nullptr;  // progress thread only

  Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kOpen;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;  // End was called, or is about to be
  int starting_ ABSL_GUARDED_BY(mutex_) = 0;     // reads decided on but not yet given to gRPC

  // gRPC owns the buffer while writing_.
  bool writing_ ABSL_GUARDED_BY(mutex_) = false, write_failed_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer write_buffer_;
  std::optional<Outgoing> written_ ABSL_GUARDED_BY(mutex_);  // completed by the message in the buffer
  Queue frames_ ABSL_GUARDED_BY(mutex_), payloads_ ABSL_GUARDED_BY(mutex_);

  // gRPC owns the buffer while reading_.
  bool held_back_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false, read_failed_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer read_buffer_;
  std::deque<grpc::ByteBuffer> arrived_ ABSL_GUARDED_BY(mutex_);
  int64_t arrived_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // not yet handled
  bool delivery_posted_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool end_told_ ABSL_GUARDED_BY(mutex_) = false, over_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_STREAM_H_
