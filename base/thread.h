// A named thread; the only way this project starts threads (docs/threads.md lists them).
//
// Thread-safety: as std::thread. Ownership: the destructor joins, so everything the thread uses must outlive the
// object, and the owner must tell the thread to stop first.
#ifndef KVLINK_BASE_THREAD_H_
#define KVLINK_BASE_THREAD_H_

#include <functional>
#include <thread>

namespace kvlink {

class Thread {
 public:
  Thread() = default;
  // Starts a thread that calls `run`. Debuggers, top and /proc show `name`; Linux keeps its first 15 characters.
  // Throws, as std::thread does, if the system cannot create a thread.
  Thread(const char* name, std::function<void()> run);
  Thread(Thread&&) noexcept = default;
  Thread& operator=(Thread&& other) noexcept;
  ~Thread() { Join(); }

  // Waits for the thread to finish; returns at once if it was never started or already joined.
  void Join();
  bool joinable() const { return thread_.joinable(); }
  std::thread::id id() const { return thread_.get_id(); }

 private:
  std::thread thread_;
};

// Adds to the niceness of the calling thread (how much it yields to others that want a processor); on Linux each thread
// has its own, and passes it on to threads it starts. Work that readers do not wait for calls this at its start. If the
// system does not permit it, the niceness stays.
void AddNiceness(int more);

// Number of processors this process may use; at least 1.
int AvailableProcessors();

}  // namespace kvlink

#endif  // KVLINK_BASE_THREAD_H_
