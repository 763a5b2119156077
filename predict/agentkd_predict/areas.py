"""How much ground a pixel covers: pure, from the numbers of a georeference."""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WGS84 = (6378137.0, 298.257223563)
SQUARE_METRES = 10_000.0
Areas = NDArray[np.float64]


@dataclass(frozen=True)
class Georeference:
    """Where an image lies.

    Args:
        transform: ``(a, b, c, d, e, f)``: the pixel of column x and row y begins at ``a x + b y + c`` and ``d x + e y + f``.
        crs: rasterio's system of coordinates, or None if that is not known.
        kind: ``projected``, ``geographic``, ``web mercator`` or ``unknown``.
        unit: metres, or radians, in one unit of the coordinates.
        ellipsoid: its larger half axis in metres, and its inverse flattening (0: a sphere).
    """

    transform: tuple[float, float, float, float, float, float]
    crs: Any
    kind: str
    unit: float = 1.0
    ellipsoid: tuple[float, float] = WGS84

    def hectares(self, height: int) -> Areas | None:
        """The area of a pixel in each row ``[height]``, or None where that is not known.

        In geographic coordinates it is the exact area on the ellipsoid between two parallels; in Web Mercator too, whose own
        units grow towards the poles. In any other projection it is the projection's.
        """
        a, b, _, d, e, f = self.transform
        if self.kind == "projected":
            return np.full(height, abs(a * e - b * d) * self.unit**2 / SQUARE_METRES)
        if self.kind not in ("geographic", "web mercator") or b or d:
            return None
        edges = (f + e * np.arange(height + 1)) * self.unit
        if self.kind == "geographic":
            latitudes, width = np.clip(edges, -math.pi / 2, math.pi / 2), abs(a) * self.unit
        else:
            latitudes, width = np.arctan(np.sinh(edges / WGS84[0])), abs(a) * self.unit / WGS84[0]
        return np.abs(np.diff(_from_equator(latitudes, *self.ellipsoid))) * width / SQUARE_METRES


def _from_equator(latitude: Areas, axis: float, inverse_flattening: float) -> Areas:
    """The area between the equator and a latitude, in square metres for each radian of longitude.

    Source: J. P. Snyder, Map Projections: A Working Manual (1987), eq. 3-12.
    """
    sine = np.sin(latitude)
    if not inverse_flattening:
        return axis**2 * sine
    flattening = 1 / inverse_flattening
    squared = flattening * (2 - flattening)
    eccentricity = math.sqrt(squared)
    scaled = eccentricity * sine
    return axis**2 / 2 * (1 - squared) * (sine / (1 - scaled**2) + np.arctanh(scaled) / eccentricity)


def ellipsoid_in(wkt: str) -> tuple[float, float]:
    """Larger half axis and inverse flattening in a system's text; those of WGS 84 if it has none.

    Example:
        >>> ellipsoid_in('GEOGCS["x",DATUM["y",SPHEROID["GRS 1980",6378137,298.257222101]]]')
        (6378137.0, 298.257222101)
    """
    found = re.search(r'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*([0-9.eE+]+),\s*([0-9.eE+]+)', wkt)
    return (float(found[1]), float(found[2])) if found else WGS84
