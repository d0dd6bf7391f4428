// An owned file descriptor. Thread-safety: one thread at a time per object.
#ifndef KVLINK_BASE_DESCRIPTOR_H_
#define KVLINK_BASE_DESCRIPTOR_H_

#include <unistd.h>

#include <utility>

namespace kvlink {

// Closes the descriptor on destruction.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  // Negative if there is none.
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

}  // namespace kvlink

#endif  // KVLINK_BASE_DESCRIPTOR_H_
