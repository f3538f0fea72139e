#pragma once

#include "base/views.hpp"

namespace loragraft {

// y^T y (l, l) in double precision; the upper triangle alone.
Matrix<double> gram(MatrixView<const float> y);

// The same, whole, by single-precision products of blocks summed in double precision: good to about
// 1e-7 of the largest entry. l a multiple of kWidthUnit.
Matrix<double> rough_gram(MatrixView<const float> y);

// a^T b of two tall matrices in double precision.
Matrix<double> tall_product(MatrixView<const float> a, MatrixView<const float> b);

// a b^T of two wide matrices in double precision.
Matrix<double> wide_product(MatrixView<const float> a, MatrixView<const float> b);

}  // namespace loragraft
