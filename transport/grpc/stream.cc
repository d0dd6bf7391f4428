#include "transport/grpc/stream.h"

#include <algorithm>

namespace kvlink::transport {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;  // max payload bytes per message; gRPC's default limit is 4 MiB
constexpr int64_t kReadAhead = int64_t{4} << 20;   // reading pauses while this much waits for the progress thread
constexpr int64_t kArrivalCost = 256;              // overhead of a message besides its bytes

void Release(void* source) { delete static_cast<std::shared_ptr<PayloadSource>*>(source); }

}  // namespace

bool Mailbox::Post(std::function<void()> work) {
  MutexLock lock(&mutex_);
  if (thread_ == nullptr) return false;
  return thread_->Post(std::move(work));
}

void Mailbox::Close() {
  MutexLock lock(&mutex_);
  thread_ = nullptr;
}

PayloadSource::~PayloadSource() {
  mailbox_->Post([done = std::move(done_), sent = sent_] { done(sent); });
}

void Stream::SendFrame(std::string frame, std::function<void()> taken) {
  Enqueue({std::move(frame), std::move(taken), nullptr}, &frames_);
}

void Stream::SendPayload(std::string frame, std::shared_ptr<PayloadSource> source) {
  Enqueue({std::move(frame), nullptr, std::move(source)}, &payloads_);
}

void Stream::Enqueue(Outgoing outgoing, Queue* queue) {
  Queue dropped;
  {
    MutexLock lock(&mutex_);
    (state_ == State::kOpen && !write_failed_ && !ending_ ? queue : &dropped)->push_back(std::move(outgoing));
  }
  Drop(&dropped);
  WriteMore();
}

// Reports frames as taken. Payloads report through their destructor that they were not sent.
void Stream::Drop(Queue* queue) {
  for (Outgoing& outgoing : *queue) {
    if (outgoing.taken != nullptr) mailbox_->Post(std::move(outgoing.taken));
  }
  queue->clear();
}

void Stream::WriteMore() {
  {
    MutexLock lock(&mutex_);
    if (writing_ || ending_ || write_failed_ || !NextMessage()) return;
    writing_ = true;
  }
  StartWriting(&write_buffer_);
}

bool Stream::NextMessage() {
  const bool frame = !frames_.empty();
  if (!frame && payloads_.empty()) return false;
  Queue& queue = frame ? frames_ : payloads_;
  Outgoing& next = queue.front();
  const StreamMessage kind = frame             ? StreamMessage::kFrame
                             : next.begun == 0 ? StreamMessage::kPayload
                                               : StreamMessage::kPiece;
  std::string head(1, static_cast<char>(kind));
  if (kind != StreamMessage::kPiece) head += next.frame;
  std::vector<grpc::Slice> slices = {grpc::Slice(head)};
  bool last = true;
  if (!frame) {
    const Slice& from = next.source->from();
    const int64_t bytes = std::min(kPieceBytes, from.length - next.begun);
    slices.emplace_back(from.data() + next.begun, static_cast<size_t>(bytes), Release,
                        new std::shared_ptr<PayloadSource>(next.source));
    next.begun += bytes;
    last = next.begun == from.length;
  }
  write_buffer_ = grpc::ByteBuffer(slices.data(), slices.size());
  if (last) {
    written_ = std::move(next);
    queue.pop_front();
  }
  return true;
}

void Stream::WriteDone(bool ok) {
  Queue ended, dropped[2];
  {
    MutexLock lock(&mutex_);
    write_buffer_.Clear();
    writing_ = false;
    if (written_) ended.push_back(*std::exchange(written_, std::nullopt));
    if (!ok) {
      write_failed_ = true;
      dropped[0].swap(frames_);
      dropped[1].swap(payloads_);
    }
  }
  if (ok && !ended.empty() && ended.front().source != nullptr) ended.front().source->SetSent();
  Drop(&ended);
  for (Queue& queue : dropped) Drop(&queue);
  WriteMore();
  EndIfDue();
}

void Stream::Close(bool flush) {
  Queue dropped[2];
  {
    MutexLock lock(&mutex_);
    if (state_ == State::kCancelled || (flush && state_ != State::kOpen)) return;
    state_ = flush ? State::kFlushing : State::kCancelled;
    if (!flush) {
      dropped[0].swap(frames_);
      dropped[1].swap(payloads_);
    }
    arrived_.clear();
  }
  for (Queue& queue : dropped) Drop(&queue);
  if (!flush) Cancel();
  ReadMore();
  EndIfDue();
}

void Stream::EndIfDue() {
  bool cancelled = false;
  Queue dropped[2];
  {
    MutexLock lock(&mutex_);
    const bool over = read_failed_ && reads_to_the_end();
    const bool flushed = state_ == State::kFlushing && frames_.empty() && payloads_.empty();
    if (!over && !flushed && state_ != State::kCancelled) return;
    if (writing_ || starting_ > 0 || std::exchange(ending_, true)) return;
    cancelled = !flushed;
    dropped[0].swap(frames_);
    dropped[1].swap(payloads_);
  }
  for (Queue& queue : dropped) Drop(&queue);
  End(cancelled);
}

void Stream::ReadMore() {
  {
    MutexLock lock(&mutex_);
    if (reading_ || read_failed_ || (ending_ && !reads_to_the_end())) return;
    if (state_ == State::kOpen && (arrived_bytes_ >= kReadAhead || held_back_)) return;
    reading_ = true;
    ++starting_;
  }
  StartReading(&read_buffer_);
  {
    MutexLock lock(&mutex_);
    --starting_;
  }
  EndIfDue();
}

void Stream::SetReading(bool reading) {
  {
    MutexLock lock(&mutex_);
    held_back_ = !reading;
  }
  if (reading) ReadMore();
}

void Stream::ReadDone(bool ok) {
  {
    MutexLock lock(&mutex_);
    reading_ = false;
    read_failed_ = !ok;
    if (ok && state_ == State::kOpen) {
      arrived_bytes_ += static_cast<int64_t>(read_buffer_.Length()) + kArrivalCost;
      arrived_.emplace_back();
      arrived_.back().Swap(&read_buffer_);
      PostDelivery();
    }
    read_buffer_.Clear();
  }
  if (ok) return ReadMore();
  ReadFailed();
  EndIfDue();
}

void Stream::Ended(const absl::Status& why) {
  MutexLock lock(&mutex_);
  if (!end_) end_ = why;
  PostDelivery();
}

void Stream::Over() {
  MutexLock lock(&mutex_);
  over_ = true;
  PostDelivery();
}

void Stream::PostDelivery() {
  if (std::exchange(delivery_posted_, true)) return;
  mailbox_->Post([self = shared_from_this()] { self->Deliver(); });
}

void Stream::Deliver() {
  std::deque<grpc::ByteBuffer> arrived;
  int64_t bytes = 0;
  std::optional<absl::Status> end;
  bool over = false;
  {
    MutexLock lock(&mutex_);
    delivery_posted_ = false;
    arrived.swap(arrived_);
    bytes = arrived_bytes_;
    if (end_ && !std::exchange(end_told_, true)) end = end_;
    over = over_;
  }
  for (grpc::ByteBuffer& buffer : arrived) {
    if (events_ != nullptr) events_->OnBuffer(buffer);
    buffer.Clear();
  }
  {
    MutexLock lock(&mutex_);
    arrived_bytes_ -= bytes;
  }
  ReadMore();
  if (end && events_ != nullptr) events_->OnEnd(*end);
  if (over && events_ != nullptr) events_->OnOver();
}

}  // namespace kvlink::transport
