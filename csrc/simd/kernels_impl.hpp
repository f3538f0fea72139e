// The kernels, written once over a vector type. Included by one file per ISA, each of which
// defines `Vec` in its own unnamed namespace and is compiled with its own flags.
//
// Nothing here may have external linkage, and no standard header with inline functions may be
// included: the linker would keep one copy for all, perhaps one this machine cannot run.
//
// Vec needs: kLanes, kRows (rows of a register tile), load, store, zero, broadcast(const float*),
// add, sub, max, fma(a, b, c) = a * b + c, load_bf16, load_f16, store_bf16 and store_f16 (to
// nearest even), binade (clears sign and mantissa), mul, load_f8_e4m3, load_f8_e5m2, load_i8,
// load_u8 and load_f4_e2m1 from bytes (any NaN for a NaN), for arithmetic on bytes magnitude
// (clears the sign), and a nested Sums {add_squares(const float*), total()} in double precision.

namespace loragraft {
namespace {

template <DType D>
struct Stored;
template <>
struct Stored<DType::bf16> {
  using Type = unsigned short;
  static Vec load(const Type* p) { return Vec::load_bf16(p); }
};
template <>
struct Stored<DType::f16> {
  using Type = unsigned short;
  static Vec load(const Type* p) { return Vec::load_f16(p); }
};
template <>
struct Stored<DType::f32> {
  using Type = float;
  static Vec load(const Type* p) { return Vec::load(p); }
};

// Load fewer than kLanes elements, the rest zero, without touching what lies behind them.
template <DType D>
Vec load_part(const std::byte* in, std::size_t count) {
  typename Stored<D>::Type padded[Vec::kLanes] = {};
  __builtin_memcpy(padded, in, count * sizeof(padded[0]));
  return Stored<D>::load(padded);
}

template <DType D>
Vec load_at(const std::byte* in, std::size_t i) {
  // The pointer may be unaligned; every Vec load accepts that.
  return Stored<D>::load(reinterpret_cast<const typename Stored<D>::Type*>(in + i * size_of(D)));
}

inline void store_part(float* out, Vec value, std::size_t count) {
  float padded[Vec::kLanes];
  value.store(padded);
  __builtin_memcpy(out, padded, count * sizeof(float));
}

template <DType D>
void widen(const std::byte* in, float* out, std::size_t n) {
  std::size_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) load_at<D>(in, i).store(out + i);
  if (i < n) store_part(out + i, load_part<D>(in + i * size_of(D), n - i), n - i);
}

template <DType D>
void store_as(Vec value, std::byte* out) {
  if constexpr (D == DType::bf16) {
    value.store_bf16(reinterpret_cast<unsigned short*>(out));
  } else if constexpr (D == DType::f16) {
    value.store_f16(reinterpret_cast<unsigned short*>(out));
  } else {
    value.store(reinterpret_cast<float*>(out));
  }
}

template <DType D>
void narrow(const float* in, std::byte* out, std::size_t n) {
  std::size_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) {
    store_as<D>(Vec::load(in + i), out + i * size_of(D));
  }
  if (i == n) return;
  typename Stored<D>::Type padded[Vec::kLanes];
  store_as<D>(load_part<DType::f32>(reinterpret_cast<const std::byte*>(in + i), n - i),
              reinterpret_cast<std::byte*>(padded));
  __builtin_memcpy(out + i * size_of(D), padded, (n - i) * size_of(D));
}

template <DType B, DType T>
void delta(const std::byte* base, const std::byte* tuned, float* out, std::size_t n) {
  std::size_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) {
    sub(load_at<T>(tuned, i), load_at<B>(base, i)).store(out + i);
  }
  if (i < n) {
    const Vec t = load_part<T>(tuned + i * size_of(T), n - i);
    store_part(out + i, sub(t, load_part<B>(base + i * size_of(B), n - i)), n - i);
  }
}

// The power of two that scales the last place. Subnormal numbers share the smallest one; only fp16
// has them where fp32 has normal numbers.
template <DType D>
Vec binade_of(Vec value) {
  if constexpr (D == DType::f16) {
    constexpr float kSmallest = 0x1p-14F;
    return max(value.binade(), Vec::broadcast(&kSmallest));
  } else {
    return value.binade();
  }
}

template <DType B, DType T>
void delta_sums(const std::byte* base, const std::byte* tuned, float* out, std::size_t n,
                TileSums& sums) {
  // Some vectors at a time go through memory on their way to double precision.
  constexpr std::size_t kBlock = 4 * Vec::kLanes;
  Vec::Sums delta_squares;
  Vec::Sums base_squares;
  Vec::Sums binade_squares;
  float bases[kBlock];
  float binades[kBlock];
  const auto form = [&](Vec b, Vec t, std::size_t at, float* d) {
    sub(t, b).store(d);
    b.store(bases + at);
    binade_of<T>(t).store(binades + at);
  };
  const auto take = [&](std::size_t at, const float* d) {
    delta_squares.add_squares(d);
    base_squares.add_squares(bases + at);
    binade_squares.add_squares(binades + at);
  };
  std::size_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    for (std::size_t k = 0; k < kBlock; k += Vec::kLanes) {
      form(load_at<B>(base, i + k), load_at<T>(tuned, i + k), k, out + i + k);
    }
    for (std::size_t k = 0; k < kBlock; k += Vec::kLanes) take(k, out + i + k);
  }
  for (; i < n; i += Vec::kLanes) {
    const std::size_t count = n - i < Vec::kLanes ? n - i : Vec::kLanes;
    float part[Vec::kLanes];
    form(load_part<B>(base + i * size_of(B), count), load_part<T>(tuned + i * size_of(T), count), 0,
         part);
    // What fills the vector up is no number with a last place.
    for (std::size_t k = count; k < Vec::kLanes; ++k) binades[k] = 0.0F;
    take(0, part);
    __builtin_memcpy(out + i, part, count * sizeof(float));
  }
  sums.delta += delta_squares.total();
  sums.base += base_squares.total();
  sums.binade += binade_squares.total();
}

// How numbers are loaded that are not weights by themselves, and how far apart they are:
// 2^-kMantissa times the power of two below them, at least kSmallest; integers 1.
template <Encoding E>
struct Coded;
template <DType D>
struct CodedWeight {
  static constexpr int kMantissa = mantissa_bits(D);
  static Vec load(const unsigned char* p) {
    return load_at<D>(reinterpret_cast<const std::byte*>(p), 0);
  }
  static Vec binade(Vec value) { return binade_of<D>(value); }
};
inline Vec binade_from(Vec value, float smallest) {
  return max(value.binade(), Vec::broadcast(&smallest));
}
template <>
struct Coded<Encoding::bf16> : CodedWeight<DType::bf16> {};
template <>
struct Coded<Encoding::f16> : CodedWeight<DType::f16> {};
template <>
struct Coded<Encoding::f32> : CodedWeight<DType::f32> {};
template <>
struct Coded<Encoding::f8_e4m3> {
  static constexpr int kMantissa = 3;
  static Vec load(const unsigned char* p) { return Vec::load_f8_e4m3(p); }
  static Vec binade(Vec value) { return binade_from(value, 0x1p-6F); }
};
template <>
struct Coded<Encoding::f8_e5m2> {
  static constexpr int kMantissa = 2;
  static Vec load(const unsigned char* p) { return Vec::load_f8_e5m2(p); }
  static Vec binade(Vec value) { return binade_from(value, 0x1p-14F); }
};
struct CodedInteger {
  static constexpr int kMantissa = 0;
  static Vec binade(Vec) {
    constexpr float kOne = 1.0F;
    return Vec::broadcast(&kOne);
  }
};
template <>
struct Coded<Encoding::i8> : CodedInteger {
  static Vec load(const unsigned char* p) { return Vec::load_i8(p); }
};
template <>
struct Coded<Encoding::u8> : CodedInteger {
  static Vec load(const unsigned char* p) { return Vec::load_u8(p); }
};
template <>
struct Coded<Encoding::f4_e2m1> {
  static constexpr int kMantissa = 1;
  static Vec load(const unsigned char* p) { return Vec::load_f4_e2m1(p); }
  static Vec binade(Vec value) { return binade_from(value, 1.0F); }
};

// Each vector's entries through `visit(numbers, scales, i, count)`, the last ones padded: numbers
// and scales with zeros.
template <Encoding E, class F>
void for_each_coded(const std::byte* codes, const float* scales, std::size_t n, F visit) {
  constexpr float kOne = 1.0F;
  const auto* const bytes = reinterpret_cast<const unsigned char*>(codes);
  std::size_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) {
    const Vec scale = scales != nullptr ? Vec::load(scales + i) : Vec::broadcast(&kOne);
    visit(Coded<E>::load(bytes + bytes_of(E, i)), scale, i, Vec::kLanes);
  }
  if (i == n) return;
  unsigned char last[bytes_of(E, Vec::kLanes)] = {};
  __builtin_memcpy(last, bytes + bytes_of(E, i), bytes_of(E, n - i));
  float last_scales[Vec::kLanes] = {};
  for (std::size_t k = 0; k < n - i; ++k) {
    last_scales[k] = scales != nullptr ? scales[i + k] : 1.0F;
  }
  visit(Coded<E>::load(last), Vec::load(last_scales), i, n - i);
}

template <Encoding E>
void decode(const std::byte* codes, const float* scales, float* out, std::size_t n, double* steps) {
  const auto put = [&](Vec value, std::size_t i, std::size_t count) {
    if (count == Vec::kLanes) {
      value.store(out + i);
    } else {
      store_part(out + i, value, count);
    }
  };
  if (steps == nullptr) {
    for_each_coded<E>(codes, scales, n, [&](Vec number, Vec scale, std::size_t i, std::size_t k) {
      put(mul(number, scale), i, k);
    });
    return;
  }
  Vec::Sums squares;
  for_each_coded<E>(codes, scales, n, [&](Vec number, Vec scale, std::size_t i, std::size_t k) {
    float spacings[Vec::kLanes];
    mul(Coded<E>::binade(number), scale).store(spacings);
    squares.add_squares(spacings);
    put(mul(number, scale), i, k);
  });
  double unit = 1.0;
  for (int bit = 0; bit < Coded<E>::kMantissa; ++bit) unit /= 4.0;
  *steps += unit * squares.total();
}

// One register tile: kR rows by kV vectors, `steps` rank-one updates, then added to c.
template <std::size_t kR, std::size_t kV>
void register_tile(const float* a, std::size_t row_stride, std::size_t step_stride,
                   std::size_t steps, const float* b, std::size_t ldb, float* c, std::size_t ldc) {
  Vec acc[kR][kV];
  for (std::size_t i = 0; i < kR; ++i) {
    for (std::size_t v = 0; v < kV; ++v) acc[i][v] = Vec::zero();
  }
  for (std::size_t k = 0; k < steps; ++k) {
    Vec row[kV];
    for (std::size_t v = 0; v < kV; ++v) row[v] = Vec::load(b + k * ldb + v * Vec::kLanes);
    const float* column = a + k * step_stride;
    for (std::size_t i = 0; i < kR; ++i) {
      const Vec x = Vec::broadcast(column + i * row_stride);
      for (std::size_t v = 0; v < kV; ++v) acc[i][v] = fma(x, row[v], acc[i][v]);
    }
  }
  for (std::size_t i = 0; i < kR; ++i) {
    for (std::size_t v = 0; v < kV; ++v) {
      float* out = c + i * ldc + v * Vec::kLanes;
      add(Vec::load(out), acc[i][v]).store(out);
    }
  }
}

// The rows that do not fill a register tile, kR or fewer.
template <std::size_t kR, std::size_t kV>
void last_rows(std::size_t rows, const float* a, std::size_t row_stride, std::size_t step_stride,
               std::size_t steps, const float* b, std::size_t ldb, float* c, std::size_t ldc) {
  if constexpr (kR > 0) {
    if (rows == kR) {
      register_tile<kR, kV>(a, row_stride, step_stride, steps, b, ldb, c, ldc);
    } else {
      last_rows<kR - 1, kV>(rows, a, row_stride, step_stride, steps, b, ldb, c, ldc);
    }
  }
}

template <std::size_t kV>
void skinny_columns(const float* a, std::size_t row_stride, std::size_t step_stride,
                    std::size_t rows, std::size_t steps, const float* b, std::size_t ldb, float* c,
                    std::size_t ldc) {
  constexpr std::size_t kRows = Vec::kRows;
  for (std::size_t k = 0; k < steps; k += kStepBlock) {
    const std::size_t count = steps - k < kStepBlock ? steps - k : kStepBlock;
    const float* a_block = a + k * step_stride;
    const float* b_block = b + k * ldb;
    std::size_t i = 0;
    for (; i + kRows <= rows; i += kRows) {
      register_tile<Vec::kRows, kV>(a_block + i * row_stride, row_stride, step_stride, count,
                                    b_block, ldb, c + i * ldc, ldc);
    }
    last_rows<Vec::kRows - 1, kV>(rows - i, a_block + i * row_stride, row_stride, step_stride,
                                  count, b_block, ldb, c + i * ldc, ldc);
  }
}

inline void skinny(const float* a, std::size_t row_stride, std::size_t step_stride,
                   std::size_t rows, std::size_t steps, const float* b, std::size_t ldb, float* c,
                   std::size_t ldc, std::size_t width) {
  constexpr std::size_t kPair = 2 * Vec::kLanes;
  std::size_t j = 0;
  for (; j + kPair <= width; j += kPair) {
    skinny_columns<2>(a, row_stride, step_stride, rows, steps, b + j, ldb, c + j, ldc);
  }
  for (; j < width; j += Vec::kLanes) {
    skinny_columns<1>(a, row_stride, step_stride, rows, steps, b + j, ldb, c + j, ldc);
  }
}

inline double sum_squares(const float* values, std::size_t n) {
  Vec::Sums squares;
  std::size_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) squares.add_squares(values + i);
  if (i < n) {
    float part[Vec::kLanes];
    load_part<DType::f32>(reinterpret_cast<const std::byte*>(values + i), n - i).store(part);
    squares.add_squares(part);
  }
  return squares.total();
}

template <DType B>
constexpr void fill_row(Kernels& table, std::size_t row) {
  table.delta[row][0] = delta<B, DType::bf16>;
  table.delta[row][1] = delta<B, DType::f16>;
  table.delta[row][2] = delta<B, DType::f32>;
  table.delta_sums[row][0] = delta_sums<B, DType::bf16>;
  table.delta_sums[row][1] = delta_sums<B, DType::f16>;
  table.delta_sums[row][2] = delta_sums<B, DType::f32>;
}

constexpr Kernels make_kernels(const char* name, const ByteKernels* bytes,
                               const CellKernels* cells) {
  Kernels table{};
  table.name = name;
  table.widen[0] = widen<DType::bf16>;
  table.widen[1] = widen<DType::f16>;
  table.widen[2] = widen<DType::f32>;
  table.decode[static_cast<std::size_t>(Encoding::bf16)] = decode<Encoding::bf16>;
  table.decode[static_cast<std::size_t>(Encoding::f16)] = decode<Encoding::f16>;
  table.decode[static_cast<std::size_t>(Encoding::f32)] = decode<Encoding::f32>;
  table.decode[static_cast<std::size_t>(Encoding::f8_e4m3)] = decode<Encoding::f8_e4m3>;
  table.decode[static_cast<std::size_t>(Encoding::f8_e5m2)] = decode<Encoding::f8_e5m2>;
  table.decode[static_cast<std::size_t>(Encoding::i8)] = decode<Encoding::i8>;
  table.decode[static_cast<std::size_t>(Encoding::u8)] = decode<Encoding::u8>;
  table.decode[static_cast<std::size_t>(Encoding::f4_e2m1)] = decode<Encoding::f4_e2m1>;
  table.narrow[0] = narrow<DType::bf16>;
  table.narrow[1] = narrow<DType::f16>;
  table.narrow[2] = narrow<DType::f32>;
  fill_row<DType::bf16>(table, 0);
  fill_row<DType::f16>(table, 1);
  fill_row<DType::f32>(table, 2);
  table.skinny = skinny;
  table.sum_squares = sum_squares;
  table.bytes = bytes;
  table.cells = cells;
  return table;
}

}  // namespace
}  // namespace loragraft
