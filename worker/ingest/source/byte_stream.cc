#include "worker/ingest/source/byte_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::ingest {
namespace {

constexpr size_t kBufferBytes = 256 << 10;

// The raw file, read through a buffer that decoders can inspect.
class RawFile {
 public:
  RawFile(int descriptor, std::string name, const Interrupt* interrupt)
      : descriptor_(descriptor), name_(std::move(name)), interrupt_(interrupt) {}
  ~RawFile() {
    if (descriptor_ > STDERR_FILENO) close(descriptor_);
  }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  const std::string& name() const { return name_; }
  // Bytes read but not yet used.
  absl::Span<const char> buffered() const { return {buffer_.data() + begin_, end_ - begin_}; }
  void Use(size_t bytes) {
    begin_ += bytes;
    position_.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  }
  int64_t position() const { return position_.load(std::memory_order_relaxed); }
  // Reads until at least `least` bytes are buffered or the file ends. REQUIRES: least <= buffer size.
  absl::Status Fill(size_t least) {
    if (end_ - begin_ >= least) return absl::OkStatus();
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    while (end_ < least) {
      if (interrupt_ != nullptr) KVLINK_RETURN_IF_ERROR(interrupt_->WaitReadable(descriptor_));
      const ssize_t n = read(descriptor_, buffer_.data() + end_, buffer_.size() - end_);
      if (n < 0 && (errno == EINTR || (errno == EAGAIN && interrupt_ != nullptr))) continue;
      if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat(name_, ": cannot be read"));
      if (n == 0) break;
      end_ += static_cast<size_t>(n);
    }
    return absl::OkStatus();
  }

 private:
  const int descriptor_;
  const std::string name_;
  const Interrupt* const interrupt_;
  std::array<char, kBufferBytes> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  std::atomic<int64_t> position_{0};
};

class StreamBase : public ByteStream {
 public:
  explicit StreamBase(std::unique_ptr<RawFile> file) : file_(std::move(file)) {}
  int64_t position() const override { return file_->position(); }

 protected:
  absl::Status Damaged(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_->name(), ": ", what, "; make the file again"));
  }
  const std::unique_ptr<RawFile> file_;
};

class PlainStream final : public StreamBase {
 public:
  using StreamBase::StreamBase;
  absl::StatusOr<size_t> Read(absl::Span<char> out) override {
    KVLINK_RETURN_IF_ERROR(file_->Fill(1));
    const size_t n = std::min(out.size(), file_->buffered().size());
    std::memcpy(out.data(), file_->buffered().data(), n);
    file_->Use(n);
    return n;
  }
};

class GzipStream final : public StreamBase {
 public:
  explicit GzipStream(std::unique_ptr<RawFile> file) : StreamBase(std::move(file)) {
    ready_ = inflateInit2(&stream_, 16 + MAX_WBITS) == Z_OK;
  }
  ~GzipStream() override {
    if (ready_) inflateEnd(&stream_);
  }
  absl::StatusOr<size_t> Read(absl::Span<char> out) override {
    if (!ready_) return absl::ResourceExhaustedError(absl::StrCat(file_->name(), ": no memory for zlib"));
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(out.size());
    while (stream_.avail_out == out.size()) {
      KVLINK_RETURN_IF_ERROR(file_->Fill(1));
      const absl::Span<const char> in = file_->buffered();
      if (in.empty()) {
        if (inside_) return Damaged("the gzip data ends in the middle");
        break;
      }
      inside_ = true;
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
      stream_.avail_in = static_cast<uInt>(in.size());
      const int code = inflate(&stream_, Z_NO_FLUSH);
      file_->Use(in.size() - stream_.avail_in);
      if (code == Z_STREAM_END) {
        inside_ = false;
        inflateReset(&stream_);
      } else if (code != Z_OK && code != Z_BUF_ERROR) {
        return Damaged(absl::StrCat("the gzip data is damaged at byte ", file_->position()));
      }
    }
    return out.size() - stream_.avail_out;
  }

 private:
  z_stream stream_{};
  bool ready_ = false;
  bool inside_ = false;  // a member
};

class ZstdStream final : public StreamBase {
 public:
  explicit ZstdStream(std::unique_ptr<RawFile> file) : StreamBase(std::move(file)), context_(ZSTD_createDCtx()) {}
  absl::StatusOr<size_t> Read(absl::Span<char> out) override {
    if (context_ == nullptr) return absl::ResourceExhaustedError(absl::StrCat(file_->name(), ": no memory for zstd"));
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    while (to.pos == 0) {
      KVLINK_RETURN_IF_ERROR(file_->Fill(1));
      const absl::Span<const char> in = file_->buffered();
      ZSTD_inBuffer from{in.data(), in.size(), 0};
      // With no input left, this flushes what the decoder still holds.
      const size_t code = ZSTD_decompressStream(context_.get(), &to, &from);
      if (ZSTD_getErrorCode(code) == ZSTD_error_frameParameter_windowTooLarge) {
        return absl::InvalidArgumentError(
            absl::StrCat(file_->name(),
                         ": the zstd data needs a window above 128 MiB; compress it again without --long or --ultra"));
      }
      if (ZSTD_isError(code)) {
        return Damaged(
            absl::StrCat("the zstd data is damaged at byte ", file_->position(), " (", ZSTD_getErrorName(code), ")"));
      }
      file_->Use(from.pos);
      if (in.empty() && to.pos == 0) {
        if (inside_) return Damaged("the zstd data ends in the middle");
        break;
      }
      inside_ = code != 0;
    }
    return to.pos;
  }

 private:
  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  const std::unique_ptr<ZSTD_DCtx, Free> context_;
  bool inside_ = false;  // a frame
};

// Refuses a file whose name promises a compression that its first bytes do not show.
absl::Status CheckName(const std::string& path, absl::Span<const char> begin) {
  absl::string_view what;
  if (absl::EndsWith(path, ".gz")) what = "gzip";
  if (absl::EndsWith(path, ".zst")) what = "zstd";
  if (what.empty()) return absl::OkStatus();
  if (begin.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": the file is empty, ", what, " data is not; make it again"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": no ", what,
                   " data, nor compressed in another way that is known; make the file again, or give it another name"));
}

bool StartsWith(absl::Span<const char> bytes, absl::string_view magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ByteStream>> ByteStream::Open(const std::string& path, const Interrupt* interrupt) {
  const bool standard_input = path == "-";
  // Without O_NONBLOCK, open itself would block on a named pipe.
  const int flags = O_RDONLY | O_CLOEXEC | (interrupt != nullptr ? O_NONBLOCK : 0);
  const int descriptor = standard_input ? STDIN_FILENO : open(path.c_str(), flags);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be opened"));
  auto file = std::make_unique<RawFile>(descriptor, standard_input ? "standard input" : path, interrupt);
  struct stat info;
  if (fstat(descriptor, &info) == 0 && S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is a directory"));
  }
  KVLINK_RETURN_IF_ERROR(file->Fill(4));
  if (StartsWith(file->buffered(), "\x1f\x8b")) return std::make_unique<GzipStream>(std::move(file));
  // A zstd frame, or a skippable frame: 0x184d2a50 to 0x184d2a5f, little-endian.
  const absl::Span<const char> begin = file->buffered();
  const bool skipped = begin.size() >= 4 && (begin[0] & 0xf0) == 0x50 && StartsWith(begin.subspan(1), "\x2a\x4d\x18");
  if (skipped || StartsWith(begin, "\x28\xb5\x2f\xfd")) return std::make_unique<ZstdStream>(std::move(file));
  if (!standard_input) KVLINK_RETURN_IF_ERROR(CheckName(path, begin));
  return std::make_unique<PlainStream>(std::move(file));
}

}  // namespace kvlink::ingest
