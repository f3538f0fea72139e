#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace loragraft {

// One value per kind of failure; the bindings translate each to one Python exception.
enum class Errc : std::uint8_t {
  invalid_argument,  // a caller's mistake: shapes, ranks, widths
  format,            // a file that cannot be read, or is not what its header said
  non_finite,        // NaN or Inf in the data
  cancelled,         // stopped on request
  numeric,           // LAPACK gave up
  unsupported,       // an ISA or feature that this machine lacks
};

class Error : public std::runtime_error {
 public:
  Error(Errc code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] Errc code() const noexcept { return code_; }

 private:
  Errc code_;
};

}  // namespace loragraft
