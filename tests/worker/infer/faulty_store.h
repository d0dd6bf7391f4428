// A store in front of a real one that fails on demand. Thread-safety: as Store; call the methods that configure it
// before anything else uses it. Bytes taken back change while they are read, so those leases must be used by one thread
// at a time.
#ifndef KVLINK_TESTS_WORKER_INFER_FAULTY_STORE_H_
#define KVLINK_TESTS_WORKER_INFER_FAULTY_STORE_H_

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/store.h"

namespace kvlink::testing {

class FaultyStore final : public store::Store {
 public:
  explicit FaultyStore(store::Store* real) : real_(real) {}

  // Waiting for `layer` of this encoding returns `status`.
  void FailLayer(const Identity& identity, int64_t layer, absl::Status status) {
    layers_[identity] = {layer, std::move(status), nullptr};
  }
  // Waiting for `layer` of this encoding lasts until the deadline.
  void DelayLayer(const Identity& identity, int64_t layer) { layers_[identity] = {layer, absl::OkStatus(), nullptr}; }
  // Waiting for `layer` of this encoding lasts until `held` has returned, whatever the deadline.
  void HoldLayer(const Identity& identity, int64_t layer, std::function<void()> held) {
    layers_[identity] = {layer, absl::OkStatus(), std::move(held)};
  }
  // Apply to the next `times` calls; -1: to all.
  void FailLookups(absl::Status status, int times = -1) { lookups_.Set(std::move(status), times); }
  void FailListings(absl::Status status, int times = -1) { listings_.Set(std::move(status), times); }
  void FailPuts(absl::Status status, int times = -1) { puts_.Set(std::move(status), times); }
  void FailReads(absl::Status status) { reads_ = std::move(status); }
  // Gives the memory of the next `times` leases of this encoding to others: right after the `checks`th call of intact()
  // (from 0), or for -1 after the last layer was waited for.
  void TakeBack(const Identity& identity, int checks, int times) { taken_back_[identity] = {checks, times}; }
  // Leases whose memory was taken back.
  int taken_back() const { return taken_; }
  // Called when an encoding is durable, on the thread that put it.
  void OnPut(std::function<void(const Identity&)> on_put) { on_put_ = std::move(on_put); }
  // Called before documents are deleted.
  void OnDelete(std::function<void()> on_delete) { on_delete_ = std::move(on_delete); }
  // The number of requests for encodings, single or batched: over a node, round trips.
  int asked() const { return asked_; }
  // The number of catalog calls, each for one or many documents.
  int catalog_gets() const { return catalog_gets_; }
  int catalog_puts() const { return catalog_puts_; }
  int statistics() const { return statistics_; }
  // Called before documents are looked up; its error is the answer.
  void HoldCatalog(std::function<absl::Status()> hold) { hold_catalog_ = std::move(hold); }
  // Called before the store says its time.
  void HoldClock(std::function<void()> hold) { hold_clock_ = std::move(hold); }
  int clocks() const { return clocks_; }
  // Every catalog call takes this long, as over a slow network.
  void DelayCatalog(absl::Duration delay) { catalog_delay_ = delay; }
  // Shifts the store's clock relative to the host's.
  void AdvanceClock(uint64_t microseconds) { clock_ahead_us_ += microseconds; }

  absl::StatusOr<std::vector<store::Found>> Lookup(absl::string_view ns, absl::Span<const Identity> identities,
                                                   Codec codec) override {
    ++asked_;
    KVLINK_RETURN_IF_ERROR(lookups_.Next());
    return real_->Lookup(ns, identities, codec);
  }
  std::vector<absl::StatusOr<std::unique_ptr<store::Lease>>> ReadMany(store::DeviceBuffer* device_buffer,
                                                                      absl::string_view ns, Codec codec,
                                                                      absl::Span<const store::ReadRequest> requests,
                                                                      absl::Time deadline) override {
    const int asked = ++asked_;
    auto leases = Store::ReadMany(device_buffer, ns, codec, requests, deadline);
    asked_ = asked;
    return leases;
  }
  absl::StatusOr<std::unique_ptr<store::Lease>> Read(absl::string_view ns, const Identity& identity, Codec codec,
                                                     const Etag& etag, absl::Time deadline) override {
    ++asked_;
    if (!reads_.ok()) return reads_;
    auto lease = real_->Read(ns, identity, codec, etag, deadline);
    const auto taken = taken_back_.find(identity);
    if (lease.ok() && taken != taken_back_.end() && taken->second.second > 0) {
      --taken->second.second;
      return std::make_unique<ShortLease>(*std::move(lease), taken->second.first, &taken_);
    }
    const auto fault = layers_.find(identity);
    if (!lease.ok() || fault == layers_.end()) return lease;
    return std::make_unique<FaultyLease>(*std::move(lease), fault->second);
  }
  absl::StatusOr<store::PutResult> Put(absl::string_view ns, const Manifest& manifest,
                                       absl::Span<const absl::Span<const std::byte>> slabs,
                                       absl::Time deadline) override {
    KVLINK_RETURN_IF_ERROR(puts_.Next());
    auto put = real_->Put(ns, manifest, slabs, deadline);
    if (put.ok() && on_put_) on_put_(manifest.identity);
    return put;
  }
  absl::Status Pin(absl::string_view ns, const Identity& identity, Codec codec) override {
    return real_->Pin(ns, identity, codec);
  }
  absl::Status Unpin(absl::string_view ns, const Identity& identity, Codec codec) override {
    return real_->Unpin(ns, identity, codec);
  }
  absl::Status Remove(absl::string_view ns, const Identity& identity) override { return real_->Remove(ns, identity); }
  absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> PutDocuments(
      absl::string_view ns, absl::Span<const store::DocumentPut> documents) override {
    ++catalog_puts_;
    absl::SleepFor(catalog_delay_);
    return real_->PutDocuments(ns, documents);
  }
  absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> GetDocuments(absl::string_view ns,
                                                                         absl::Span<const std::string> ids) override {
    ++catalog_gets_;
    absl::SleepFor(catalog_delay_);
    if (hold_catalog_) KVLINK_RETURN_IF_ERROR(hold_catalog_());
    return real_->GetDocuments(ns, ids);
  }
  absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(
      absl::string_view ns, absl::Span<const store::DocumentDeletion> documents) override {
    if (on_delete_) on_delete_();
    return real_->DeleteDocuments(ns, documents);
  }
  absl::StatusOr<store::NamespaceDeletion> DeleteNamespace(absl::string_view ns) override {
    return real_->DeleteNamespace(ns);
  }
  absl::StatusOr<std::vector<store::DocumentInfo>> ListDocuments(absl::string_view ns, absl::string_view after,
                                                                 int64_t limit) override {
    KVLINK_RETURN_IF_ERROR(listings_.Next());
    return real_->ListDocuments(ns, after, limit);
  }
  absl::StatusOr<uint64_t> Clock() override {
    ++clocks_;
    if (hold_clock_) hold_clock_();
    auto clock_us = real_->Clock();
    if (clock_us.ok()) *clock_us += clock_ahead_us_;
    return clock_us;
  }
  absl::StatusOr<store::StoreStats> Stats() override {
    ++statistics_;
    return real_->Stats();
  }
  absl::StatusOr<std::vector<Listed>> ListEncodings(absl::string_view ns, const Identity& after,
                                                    int64_t limit) override {
    return real_->ListEncodings(ns, after, limit);
  }
  absl::StatusOr<store::VerifyReport> Verify(std::function<bool(int64_t, int64_t)> progress) override {
    return real_->Verify(std::move(progress));
  }
  void DropDramTier() override { real_->DropDramTier(); }

 private:
  class Fault {
   public:
    void Set(absl::Status status, int times) {
      status_ = std::move(status);
      times_ = times;
    }
    // What the next call returns; OK: it goes through.
    absl::Status Next() {
      for (int times = times_; times != 0;) {
        if (times < 0 || times_.compare_exchange_weak(times, times - 1)) return status_;
      }
      return absl::OkStatus();
    }

   private:
    absl::Status status_;
    std::atomic<int> times_{0};
  };
  struct LayerFault {
    int64_t layer = 0;
    absl::Status status;  // OK: it is late
    std::function<void()> held;
  };
  class FaultyLease final : public store::Lease {
   public:
    FaultyLease(std::unique_ptr<store::Lease> real, const LayerFault& fault) : real_(std::move(real)), fault_(fault) {}
    const Manifest& manifest() const override { return real_->manifest(); }
    store::Tier source() const override { return real_->source(); }
    absl::Status WaitLayer(int64_t layer, absl::Time deadline) override {
      if (layer == fault_.layer && fault_.held) {
        fault_.held();
        deadline = absl::InfiniteFuture();
      }
      if (layer < fault_.layer || fault_.held) return real_->WaitLayer(layer, deadline);
      if (!fault_.status.ok()) return fault_.status;
      absl::SleepFor(deadline - SteadyNow());
      return absl::DeadlineExceededError("the layer did not arrive in time");
    }
    absl::Span<const std::byte> layer(int64_t layer) const override { return real_->layer(layer); }

   private:
    const std::unique_ptr<store::Lease> real_;
    const LayerFault fault_;
  };

  // A lease on a copy of the bytes, which is overwritten at its moment.
  class ShortLease final : public store::Lease {
   public:
    ShortLease(std::unique_ptr<store::Lease> real, int checks, std::atomic<int>* taken)
        : real_(std::move(real)), last_check_(checks), taken_(taken) {
      for (const LayerManifest& layer : manifest().layers) slabs_.emplace_back(layer.length);
    }
    const Manifest& manifest() const override { return real_->manifest(); }
    store::Tier source() const override { return real_->source(); }
    absl::Status WaitLayer(int64_t layer, absl::Time deadline) override {
      if (!intact_) return absl::UnavailableError("the memory belongs to others");
      absl::Status status = real_->WaitLayer(layer, deadline);
      if (!status.ok()) return status;
      std::copy(real_->layer(layer).begin(), real_->layer(layer).end(), slabs_[layer].begin());
      if (last_check_ < 0 && layer + 1 == static_cast<int64_t>(slabs_.size())) Overwrite();
      return status;
    }
    absl::Span<const std::byte> layer(int64_t layer) const override { return slabs_[layer]; }
    bool intact() const override {
      if (!intact_) return false;
      if (checks_++ == last_check_) Overwrite();
      return true;
    }

   private:
    void Overwrite() const {
      intact_ = false;
      ++*taken_;
      for (auto& slab : slabs_) std::memset(slab.data(), 0x3d, slab.size());
    }

    const std::unique_ptr<store::Lease> real_;
    const int last_check_;
    std::atomic<int>* const taken_;
    mutable int checks_ = 0;
    mutable bool intact_ = true;
    mutable std::vector<std::vector<std::byte>> slabs_;
  };

  store::Store* const real_;
  std::map<Identity, LayerFault> layers_;
  std::map<Identity, std::pair<int, int>> taken_back_;
  std::atomic<int> taken_{0}, asked_{0};
  absl::Duration catalog_delay_;
  uint64_t clock_ahead_us_ = 0;
  std::atomic<int> catalog_gets_{0}, catalog_puts_{0}, statistics_{0}, clocks_{0};
  Fault lookups_, listings_, puts_;
  absl::Status reads_;
  std::function<void(const Identity&)> on_put_;
  std::function<void()> on_delete_;
  std::function<absl::Status()> hold_catalog_;
  std::function<void()> hold_clock_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_WORKER_INFER_FAULTY_STORE_H_
