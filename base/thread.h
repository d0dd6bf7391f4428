// A named thread: the one way in which the project starts threads (docs/threads.md lists them).
//
// Thread-safety: as std::thread. Ownership: the destructor joins, so whatever the thread uses outlives the object, and
// its owner tells it to end first.
#ifndef KVLINK_BASE_THREAD_H_
#define KVLINK_BASE_THREAD_H_

#include <functional>
#include <thread>

namespace kvlink {

class Thread {
 public:
  Thread() = default;
  // Starts a thread that runs `run`. `name` is what debuggers, top and /proc show; Linux keeps 15 characters of it.
  // Throws as std::thread does where the system has no more threads.
  Thread(const char* name, std::function<void()> run);
  Thread(Thread&&) noexcept = default;
  Thread& operator=(Thread&& other) noexcept;
  ~Thread() { Join(); }

  // Waits for the end of the thread; returns at once where none was started or it was joined before.
  void Join();
  bool joinable() const { return thread_.joinable(); }
  std::thread::id id() const { return thread_.get_id(); }

 private:
  std::thread thread_;
};

// Processors that this process may use; at least 1.
int AvailableProcessors();

}  // namespace kvlink

#endif  // KVLINK_BASE_THREAD_H_
